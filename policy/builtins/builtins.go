// Package builtins is the one table of Rego's built-in functions: what the result of each depends on, which query the directory, and which
// are off by default. It is a part of the policy and imports nothing of ours.
package builtins

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Class says what a built-in's result depends on besides its arguments. The memo, replays and explanations use it.
type Class uint8

// The classes.
const (
	Unknown  Class = iota // anything: never memoised, never replayed
	Pure                  // nothing
	Timed                 // the time of the decision: never memoised, replayed at the recorded time
	Asked                 // the directory: memoised with questions and answers, replayed with the recorded ones
	Observed              // what OPA treats as random or external: never memoised; replayed unless the built-in is actually called
	Changing              // random or external: like Observed, and an explanation cannot know it
	Calling               // an external call that cannot be stopped: like Unknown, and an explanation cannot know it
)

// Of returns a built-in's class.
func Of(name string) Class { return classes[name] }

// classes lists the built-ins that are not Unknown. Anything else, including what a later OPA adds, is Unknown: OPA's own list
// (Builtin.Nondeterministic) misses built-ins that check a certificate's validity against the clock, and those with side effects. Left out
// because nobody needs them: rego.parse_module, providers.aws.sign_req, strings.render_template.
var classes = func(of map[Class]string) map[string]Class {
	all := map[string]Class{}
	for class, names := range of {
		for _, name := range strings.Fields(names) {
			all[name] = class
		}
	}
	for _, b := range directoryTable {
		all[b.name] = Asked
	}
	return all
}(map[Class]string{Timed: "time.now_ns io.jwt.decode_verify", Changing: "http.send rand.intn uuid.rfc4122 opa.runtime", Calling: "net.lookup_ip_addr", Observed: `
	io.jwt.encode_sign io.jwt.encode_sign_raw json.match_schema json.verify_schema
`, Pure: `
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

// Is reports whether a reference names a built-in function.
func Is(ref ast.Ref) bool {
	if _, isVar := ref[0].Value.(ast.Var); !isVar || !ref.IsGround() {
		return false
	}
	name := ref.String()
	return ast.BuiltinMap[name] != nil || AsksDirectory(name)
}

// OffByDefault lists the built-ins that configuration has to enable.
var OffByDefault = []string{"http.send", "net.lookup_ip_addr", "opa.runtime"}
