package policy

import (
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"gatehouse/policy/rego"
)

// leftOut replaces possible values in an error's text.
const leftOut = "[redacted]"

// errorText returns an OPA error's text without the values that it failed on: bundle, file, line, the built-in, and why. Values often come
// from clients and may be secret; errors are logged.
func errorText(err error) string {
	e, ok := err.(*topdown.Error)
	if !ok {
		return withoutOperands(err.Error())
	}
	if e.Code == topdown.ConflictErr || e.Code == topdown.CancelErr { // these messages only name rules
		return rego.OneLine(e.Error())
	}
	public := topdown.Error{Code: e.Code, Message: builtinMessage(e.Message, e.Location), Location: e.Location}
	return rego.OneLine(public.Error())
}

// builtinMessage returns a built-in's message, which starts with its name, without values.
func builtinMessage(message string, at *ast.Location) string {
	name, rest, ok := strings.Cut(message, ": ")
	if !ok || strings.ContainsAny(name, " \t\n\"'") {
		return withoutOperands(message)
	}
	if strings.HasPrefix(name, "ds.") || strings.HasPrefix(name, "gatehouse.") {
		if told, ok := unknownName(rest, at); ok {
			return name + ": " + told
		}
	}
	return name + ": " + withoutOperands(rest)
}

// unknownName returns the message about a type or relation that the directory's manifest does not have. What follows the name is from the
// manifest. The name itself may come from a client: it is kept only if the policy's source has it at the call, or the manifest has a similar
// one.
func unknownName(message string, at *ast.Location) (string, bool) {
	for _, what := range []string{"unknown relation or permission ", "unknown relation ", "unknown type "} {
		before, rest, ok := strings.Cut(message, what)
		if !ok {
			continue
		}
		name, err := strconv.QuotedPrefix(rest)
		if err != nil {
			continue
		}
		rest = rest[len(name):]
		if !strings.Contains(rest, "(did you mean ") && (at == nil || !strings.Contains(string(at.Text), name)) {
			name = leftOut
		}
		if before != "" { // says which of several queries it is
			what = withoutOperands(before) + " " + what
		}
		return what + name + rest, true
	}
	return "", false
}

// withoutOperands keeps the words that messages of built-ins and of Go's parsers use. Every other word may be part of a value, quoted or
// not.
func withoutOperands(message string) string {
	const most = 4 << 10
	if len(message) > most {
		message = message[:most]
	}
	if i := strings.LastIndex(message, disallowed); i >= 0 { // kept: the user has to add this host to the configuration
		if host := message[i+len(disallowed):]; isHost(host) {
			return strings.TrimPrefix(withoutOperands(message[:i])+" "+disallowed+host, " ")
		}
	}
	var out []string
	counts := false // a number may follow the previous word
	for word := range strings.FieldsSeq(message) {
		bare := strings.ToLower(strings.Trim(word, "\"'`.,:;()[]{}"))
		switch {
		case words[bare], counts && len(bare) <= 4 && strings.Trim(bare, "0123456789") == "":
			out = append(out, word)
		case len(out) == 0 || out[len(out)-1] != leftOut:
			out = append(out, leftOut)
		}
		counts = counted[bare]
	}
	return strings.Join(out, " ")
}

// disallowed precedes a host that policy.capabilities does not list, in OPA's message.
const disallowed = "disallowed host: "

func isHost(s string) bool {
	return s != "" && len(s) <= 253 && strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789.-:[]") == ""
}

func wordSet(list string) map[string]bool {
	out := map[string]bool{"": true}
	for word := range strings.FieldsSeq(list) {
		out[word] = true
	}
	return out
}

// counted are the words after which a small number is a position or a size, not a value.
var counted = wordSet("operand element line column byte bytes length position index offset")

// words are those in the messages of OPA's built-ins and the parsers that they use.
var words = wordSet(`
	a an and are as at be been but by can cannot could did does each either empty end expected exceeded extra failed for found from got greater has have
	if in into is it less limit longer looking match maximum minimum missing more must negative no non not number numbers of off on one only or out outside
	over positive produced range required should single some supported than that the them there this time timeout to too two under unexpected unknown
	unless unsupported valid value values was were when which while with within without wrong zero
	address aes alg algorithm amount answer array arrays attribute base64 base64url big boolean builtin byte bytes call cast certificate certificates character
	characters cidr code column compile compiler conflict conflicting constraint constraints context conversion convert csr data date day deadline decode
	decoded delimiter digit digits disallowed divide division document dns duplicate duration element elements encode encoded encoding error error(s) errors
	escape evaluate evaluation exponent expression external field fields file float float64 format fraction function given glob graphql grpc header headers
	hex hour http host illegal input int int64 integer integers interface internal invalid ip ipv4 ipv6 iteration json json-patch jwk jwks jws jwt jwe key keys
	last layout leading length level line list literal location lookup malformed marshal mask memory merge minute missing modulo month name nanoseconds
	negation nested network null object objects offset op operand operands operation operator operator: overflow panic padding param parameter parameters
	parse parsed parseduration parsefloat parseint parser parsing patch path pattern payload pem permitted policy position precision prefix private public
	query quote rate read recursion ref reference refused regex regexp regular remote repeat repetition representation request requested response result
	rsa rule rules schema scope second seconds semver separator separators sequence server set sets sha256 shape signature size source standard stack start
	starts statement step strconv.atoi strconv.parsebool strconv.parsefloat strconv.parseint strconv.parseuint string strings struct syntax term textual token
	tls trailing type types underflow unit units unix unmarshal unrecognized unsigned unterminated url utf-8 uuid variable verification verified verify
	allow configured directory loop no permission object permissions questions record relation relations steps subject without
	another argument belongs default checks directory.limits explain id identity larger listed needed needs object's object_id object_type question results
	subject's subject_id subject_relation subject_type trace type:id user with_empty_subject_relation with_objects with_relations
	loading disabled signed authority eof closed i/o version whitespace year yaml yet zone connection reset refused: dial tcp lookup:`)
