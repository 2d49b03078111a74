package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Use is where a policy uses something: a built-in, or a part of the input.
type Use struct {
	What string // the built-in's name, or the path: input.attributes.request.time
	File string // the bundle's name and the file in it; empty where no place is known
	Line int
}

// String is what is used, and where.
func (u Use) String() string {
	if u.File == "" {
		return u.What
	}
	return fmt.Sprintf("%s (%s:%d)", u.What, u.File, u.Line)
}

// class says what the value of a built-in depends on besides its arguments. The memo and the Replayer both go by it.
type class uint8

const (
	unknown  class = iota // may be anything: never remembered, never repeated
	pure                  // nothing
	timed                 // the time that the decision is given: never remembered, repeated at the recorded time
	asked                 // Facts: remembered with the questions and answers, repeated with those on record
	observed              // chance or others; never remembered, and repeated unless it is seen to be called (Replayer)
)

// classes lists the built-ins that are not unknown. What is not here, and what a later version of OPA adds, is unknown: OPA's own list
// (Builtin.Nondeterministic) leaves out what asks the clock for a certificate's validity, and what has an effect. Not here because
// nobody needs them: rego.parse_module, providers.aws.sign_req, strings.render_template. Not here because a call of it cannot be
// stopped: net.lookup_ip_addr.
var classes = func(of map[class]string) map[string]class {
	all := map[string]class{}
	for class, names := range of {
		for _, name := range strings.Fields(names) {
			all[name] = class
		}
	}
	for _, b := range directoryTable {
		all[b.name] = asked
	}
	return all
}(map[class]string{timed: "time.now_ns io.jwt.decode_verify", observed: `
	http.send rand.intn uuid.rfc4122 opa.runtime io.jwt.encode_sign io.jwt.encode_sign_raw json.match_schema json.verify_schema
`, pure: `
	eq assign internal.member_2 internal.member_3 gt gte lt lte neq equal
	plus minus mul div ceil floor round abs rem bits.or bits.and bits.negate bits.xor bits.lsh bits.rsh and or
	count sum product max min any all sort walk
	array.concat array.flatten array.slice array.reverse set_diff intersection union
	to_number cast_object cast_null cast_boolean cast_string cast_set cast_array
	is_number is_string is_boolean is_array is_set is_object is_null type_name
	regex.is_valid regex.match re_match regex.split regex.globs_match regex.template_match regex.find_n
	regex.find_all_string_submatch_n regex.replace glob.match glob.quote_meta
	strings.any_prefix_match strings.any_suffix_match strings.count strings.split_n strings.replace_n strings.reverse
	concat format_int indexof indexof_n substring lower upper contains startswith endswith split replace
	trim trim_left trim_prefix trim_right trim_suffix trim_space sprintf internal.template_string
	numbers.range numbers.range_step
	json.marshal json.marshal_with_options json.unmarshal json.is_valid json.filter json.remove json.patch
	yaml.marshal yaml.unmarshal yaml.is_valid hex.encode hex.decode
	base64.encode base64.decode base64.is_valid base64url.encode base64url.encode_no_pad base64url.decode
	urlquery.decode urlquery.encode urlquery.encode_object urlquery.decode_object uri.parse uri.is_valid
	object.union object.union_n object.remove object.filter object.get object.keys object.subset
	io.jwt.decode
	io.jwt.verify_rs256 io.jwt.verify_rs384 io.jwt.verify_rs512 io.jwt.verify_ps256 io.jwt.verify_ps384 io.jwt.verify_ps512
	io.jwt.verify_es256 io.jwt.verify_es384 io.jwt.verify_es512 io.jwt.verify_eddsa
	io.jwt.verify_hs256 io.jwt.verify_hs384 io.jwt.verify_hs512
	time.parse_ns time.parse_rfc3339_ns time.parse_duration_ns time.format time.date time.clock time.weekday time.add_date time.diff
	crypto.x509.parse_certificates crypto.x509.parse_certificate_request crypto.x509.parse_rsa_private_key
	crypto.x509.parse_keypair crypto.parse_private_keys crypto.md5 crypto.sha1 crypto.sha256
	crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512 crypto.hmac.equal
	graph.reachable graph.reachable_paths
	graphql.parse graphql.parse_and_verify graphql.parse_query graphql.parse_schema graphql.is_valid graphql.schema_is_valid
	rego.metadata.chain rego.metadata.rule
	net.cidr_overlap net.cidr_intersects net.cidr_contains net.cidr_contains_matches net.cidr_expand net.cidr_merge net.cidr_is_valid
	units.parse units.parse_bytes uuid.parse semver.is_valid semver.compare
`})

// isBuiltin reports whether a reference is the name of a built-in function.
func isBuiltin(ref ast.Ref) bool {
	if _, isVar := ref[0].Value.(ast.Var); !isVar || !ref.IsGround() {
		return false
	}
	name := ref.String()
	return ast.BuiltinMap[name] != nil || isDirectory(name)
}

// call notes a function that is called, unless it is one of the policy's own or known to be pure, or pure but for Facts.
func (c *collector) call(ref ast.Ref) {
	if len(ref) == 0 || ref[0].Equal(ast.DefaultRootDocument) {
		return
	}
	use := c.use(ref.String(), ref[0].Location)
	class := classes[use.What]
	c.asks = c.asks || class == asked
	if class != pure && class != asked && !slices.Contains(c.impure, use) {
		c.impure = append(c.impure, use)
	}
}

// use is something at a place; without one of its own it is where the rule is that is walked.
func (c *collector) use(what string, at *ast.Location) Use {
	if at == nil || at.File == "" {
		at = c.near
	}
	if at == nil {
		return Use{What: what}
	}
	return Use{What: what, File: at.File, Line: at.Row}
}

// changing are the parts of the input that are hardly the same for two requests.
var changing = [][]string{
	{"attributes", "request", "http", "headers", "x-request-id"},
	{"attributes", "request", "http", "headers", "traceparent"},
	{"attributes", "request", "http", "headerMap"},
	{"attributes", "request", "http", "id"},
	{"attributes", "request", "time"},
	{"attributes", "source", "address", "socketAddress", "portValue"},
}

// Memoisable tells whether the decisions of an entry can be remembered.
type Memoisable struct {
	// Impure are the uses of built-ins whose value may be another next time; where there is one nothing is remembered.
	Impure []Use
	// Changing are reads of what is another in each request, so that remembering is of no use although it would be sound.
	Changing []Use
}

// Memoisable tells whether this entry's decisions can be remembered and, if not, what is in the way.
func (e *Entry) Memoisable() Memoisable { return Memoisable{Impure: e.impure, Changing: e.changing} }

// changingReads are the references that read what is another in each request, each once.
func (c *collector) changingReads() []Use {
	var found []Use
	for _, path := range changing {
		if !c.reads.has(path) {
			continue
		}
		for _, use := range c.inputs {
			if covers(use.What, path) && !slices.Contains(found, use) {
				found = append(found, use)
			}
		}
	}
	return found
}

// covers reports whether a reference, as text, reads the value at a path or a part of it.
func covers(ref string, path []string) bool {
	at := "input." + strings.Join(path, ".") + "."
	return strings.HasPrefix(at, ref+".") || strings.HasPrefix(ref+".", at)
}
