package bounds

import (
	"fmt"
	"math"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

const (
	maxKeyText    = 16 << 10 // bytes of a key, a certificate or a chain of them
	maxPrivateKey = 8 << 10  // bytes: checking a private key takes time cubic in its length
	maxVersion    = 4096     // bytes of a version, a duration, a unit or an identifier
	maxAddresses  = 1 << 18
	maxPairs      = 10_000_000
	maxModule     = 32 << 10 // bytes of Rego
	maxBrackets   = 1000     // that a module opens
)

// guards is the table of built-ins. A test compares it with the linked OPA.
var guards = func() map[string]guard {
	table := map[string]guard{}
	rows := func(kind, why string, check func([]*ast.Term) verdict, names string) {
		for _, name := range strings.Fields(names) {
			table[name] = guard{kind: kind, why: why, check: check}
		}
	}
	plainRows(rows)
	limitedRows(rows)
	isolatedRows(rows)
	own := func(name, why string, check func([]*ast.Term) verdict, instead func(topdown.BuiltinFunc) topdown.BuiltinFunc) {
		table[name] = guard{kind: "replaced", why: why, check: check, replacement: instead(topdown.GetBuiltin(name))}
	}
	own("glob.match", fmt.Sprintf("where there are many ways to match, by a regular expression; patterns of at most %d bytes, apart from long texts", maxGlob), globbed, globs)
	own("graph.reachable", "each node is visited once, and the deadline is looked at", nil, reachable)
	own("graph.reachable_paths", fmt.Sprintf("at most %d paths of at most %d nodes", maxPaths, maxPath), nil, reachablePaths)
	own("json.patch", fmt.Sprintf("after each copy that may have doubled it the document is weighed; at most %d operations, and paths of %d steps", maxOperations, maxPointer), patched, patches)
	own("indexof", "in linear time", linear(1, 0, 1), index(false))
	own("indexof_n", "in linear time", linear(16, 0, 1), index(true))
	own("replace", fmt.Sprintf("a text of at most %d bytes comes of it; long patterns in linear time, large texts apart", MaxText), replaced, replaceLong)
	own("strings.replace_n", fmt.Sprintf("a text of at most %d bytes comes of it; large ones apart", MaxText), replacedN, replaceLong)
	for _, name := range []string{"numbers.range", "numbers.range_step"} {
		own(name, fmt.Sprintf("at most %d numbers, and the deadline is looked at at each", MaxList), nil, ranges(name))
	}
	for _, name := range []string{"yaml.unmarshal", "yaml.is_valid"} {
		own(name, "at most 4 MiB with its aliases put in; long texts apart", linear(64, 0), yamls(name))
	}
	own("json.match_schema", "the steps that the document takes are counted first, and references that lead to themselves refused; large ones and those with references apart",
		sized, schemas)
	own("json.verify_schema", fmt.Sprintf("schemas of at most %d values; large ones and those with references apart", maxSchemaSize), sized, schemasAlone)
	read1 := func(name string, result func(*ast.Term) string) {
		g := table[name]
		g.result = result
		table[name] = g
	}
	for _, name := range []string{"json.unmarshal", "yaml.unmarshal", "io.jwt.decode", "io.jwt.decode_verify", "http.send"} {
		read1(name, read)
	}
	for _, name := range []string{"to_number", "units.parse", "units.parse_bytes"} {
		read1(name, readNumber)
	}
	return table
}()

// plainRows adds the built-ins that need no guard.
func plainRows(rows func(kind, why string, check func([]*ast.Term) verdict, names string)) {
	rows("bounded", "compares, or looks at one value", nil, `eq assign equal neq gt gte lt lte internal.member_2 internal.member_3
		is_number is_string is_boolean is_array is_set is_object is_null type_name cast_object cast_null cast_boolean cast_string
		object.get count any all max min time.now_ns rand.intn uuid.rfc4122 crypto.hmac.equal`)
	rows("bounded", "time and memory in proportion to its operands", nil, `array.flatten array.slice array.reverse
		substring lower upper contains startswith endswith strings.count split strings.split_n strings.reverse
		trim_prefix trim_suffix trim_space base64.encode base64.decode base64.is_valid base64url.encode base64url.encode_no_pad base64url.decode
		urlquery.encode urlquery.decode urlquery.decode_object uri.parse uri.is_valid hex.encode hex.decode json.is_valid
		strings.any_prefix_match strings.any_suffix_match glob.quote_meta
		crypto.md5 crypto.sha1 crypto.sha256 crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512
		net.cidr_overlap net.cidr_intersects net.cidr_contains net.cidr_is_valid
		time.parse_ns time.parse_rfc3339_ns time.format time.date time.clock time.weekday time.add_date time.diff`)
	rows("bounded", "each value that it gives is a step of the evaluation", nil, `walk`)
	rows("bounded", "put in by the compiler, never called", nil, `rego.metadata.chain rego.metadata.rule`)
	rows("bounded", "print statements are erased and notes of traces kept by tools alone", nil, `print internal.print trace internal.test_case`)
	rows("waits", "off by default; the evaluation's context ends it, answers of at most 10 MiB", nil, `http.send`)
	rows("waits", "off by default; the evaluation's context ends it", nil, `net.lookup_ip_addr`)
	rows("bounded", "off by default; always empty", nil, `opa.runtime`)
}

// limitedRows adds the built-ins whose operands or result are limited.
func limitedRows(rows func(kind, why string, check func([]*ast.Term) verdict, names string)) {
	rows("limited", fmt.Sprintf("numbers of at most %d digits", MaxDigits), arithmetic, `plus mul div rem abs round ceil floor
		bits.or bits.and bits.xor bits.negate format_int`)
	rows("limited", fmt.Sprintf("numbers of at most %d digits, or sets without too many elements of one hash", MaxDigits), subtracted, `minus`)
	rows("limited", "not with elements of which too many have one hash", hashed(0, 1), `and or set_diff object.union`)
	rows("limited", "not with elements of which too many have one hash", hashed(0), `object.keys`)
	rows("limited", fmt.Sprintf("lists of at most %d elements", maxJoined), joined, `array.concat`)
	rows("limited", fmt.Sprintf("shifts by at most %d bits", MaxShift), shifted, `bits.lsh bits.rsh`)
	rows("limited", fmt.Sprintf("numbers of at most %d digits all together; long lists apart", 100*MaxDigits), accumulated(false), `sum`)
	rows("limited", fmt.Sprintf("numbers of at most %d digits all together; long lists apart", 2*MaxDigits), accumulated(true), `product`)
	rows("limited", fmt.Sprintf("numbers of at most %d characters", MaxNumber), linear(1, 0), `to_number`)
	rows("limited", fmt.Sprintf("texts of at most %d bytes, numbers of at most %d characters", maxVersion, MaxNumber), units, `units.parse units.parse_bytes`)
	rows("limited", fmt.Sprintf("texts of at most %d bytes", MaxNumber), atMost(MaxNumber, 0), `time.parse_duration_ns`)
	rows("limited", fmt.Sprintf("texts of at most %d bytes", maxVersion), atMost(maxVersion, 0), `semver.is_valid uuid.parse`)
	rows("limited", fmt.Sprintf("texts of at most %d bytes", maxVersion), atMost(maxVersion, 0, 1), `semver.compare`)
	rows("limited", fmt.Sprintf("a text of at most %d bytes comes of it", MaxText), concatenated, `concat`)
	rows("limited", fmt.Sprintf("a text of at most %d bytes comes of it, with its widths and repeated arguments", MaxText), formatted, `sprintf`)
	rows("limited", fmt.Sprintf("a text of at most %d bytes comes of it", MaxText), walked(1, 0), `internal.template_string`)
	rows("limited", "at most 4096 bytes to trim, apart where both are long", trimmed, `trim trim_left trim_right`)
	rows("limited", fmt.Sprintf("at most %d addresses, and the deadline is looked at", maxAddresses), expandedNet, `net.cidr_expand`)
	rows("limited", "not among elements of which too many have one hash; long lists apart", listed(0), `cast_set cast_array`)
	rows("limited", "not among elements of which too many have one hash; long lists apart", listed(0, 1), `object.remove`)
	rows("limited", "not among elements of which too many have one hash; long lists apart", listed(1), `object.filter`)
	rows("limited", "templates without calls of templates and printf, and no more loops than give 32 MiB", rendered, `strings.render_template`)
}

// isolatedRows adds the built-ins whose large calls run apart.
func isolatedRows(rows func(kind, why string, check func([]*ast.Term) verdict, names string)) {
	values := fmt.Sprintf("values of at most %d parts and %d bytes; large ones apart", MaxNodes, MaxText)
	rows("apart", values, walked(1, 0), `json.marshal yaml.marshal urlquery.encode_object object.union_n union intersection`)
	rows("apart", values+", with their indentation", marshalled, `json.marshal_with_options`)
	rows("apart", values, pointers, `json.filter json.remove`)
	rows("apart", fmt.Sprintf("long texts apart; what comes of them has at most %d parts and numbers of at most %d characters", MaxNodes, MaxNumber),
		linear(2, 0), `json.unmarshal`)
	rows("apart", "long lists apart", sorted, `sort`)
	rows("apart", "large values apart; lists of at most 10,000,000 pairs", subset, `object.subset`)
	pattern := fmt.Sprintf("patterns of at most %d bytes and %d instructions; apart where pattern and text are long", MaxPattern, MaxProgram)
	rows("apart", pattern, matched(0, -1, -1), `regex.is_valid`)
	rows("apart", pattern, matched(0, 1, -1), `regex.match re_match regex.split regex.find_n regex.find_all_string_submatch_n regex.template_match`)
	rows("apart", pattern+fmt.Sprintf("; a text of at most %d bytes comes of it", MaxText), matched(1, 0, 2), `regex.replace`)
	rows("apart", "patterns of at most 1000 bytes and 12 stars; longer ones apart", intersected, `regex.globs_match`)
	rows("apart", fmt.Sprintf("always; at most %d tokens, %d levels and %d uses of fragments", maxGraphQLTokens, maxGraphQLDepth, maxSpreads),
		graphql(0, -1), `graphql.parse_query`)
	rows("apart", fmt.Sprintf("always; at most %d tokens and %d levels", maxSchemaTokens, maxGraphQLDepth), graphql(-1, 0), `graphql.parse_schema graphql.schema_is_valid`)
	rows("apart", fmt.Sprintf("always; at most %d tokens, %d levels and %d uses of fragments", maxGraphQLTokens, maxGraphQLDepth, maxSpreads),
		graphql(0, 1), `graphql.parse graphql.parse_and_verify graphql.is_valid`)
	keys := fmt.Sprintf("keys and certificates of at most %d bytes; apart", maxKeyText)
	rows("apart", keys, tokens(1), `io.jwt.verify_rs256 io.jwt.verify_rs384 io.jwt.verify_rs512 io.jwt.verify_ps256 io.jwt.verify_ps384 io.jwt.verify_ps512
		io.jwt.verify_es256 io.jwt.verify_es384 io.jwt.verify_es512 io.jwt.verify_eddsa io.jwt.verify_hs256 io.jwt.verify_hs384 io.jwt.verify_hs512
		io.jwt.decode_verify`)
	rows("apart", fmt.Sprintf("long tokens apart; numbers of at most %d characters", MaxNumber), linear(8, 0), `io.jwt.decode`)
	rows("apart", fmt.Sprintf("keys of at most %d bytes; apart", maxPrivateKey), signed, `io.jwt.encode_sign io.jwt.encode_sign_raw`)
	rows("apart", keys, keyed(64<<10, 0), `crypto.x509.parse_certificates crypto.x509.parse_and_verify_certificates crypto.x509.parse_and_verify_certificates_with_options`)
	rows("apart", keys, keyed(maxKeyText, 0), `crypto.x509.parse_certificate_request`)
	rows("apart", fmt.Sprintf("keys of at most %d bytes; apart", maxPrivateKey), keyed(maxPrivateKey, 0), `crypto.x509.parse_rsa_private_key crypto.parse_private_keys`)
	rows("apart", fmt.Sprintf("keys of at most %d bytes; apart", maxPrivateKey), keyed(maxKeyText, 0, 1), `crypto.x509.parse_keypair`)
	rows("apart", "large requests apart", walked(4, 0, 1), `providers.aws.sign_req`)
	rows("apart", fmt.Sprintf("always; modules of at most %d bytes and %d brackets", maxModule, maxBrackets), module, `rego.parse_module`)
	rows("apart", "large lists apart, at most 10,000,000 pairs", pairs, `net.cidr_contains_matches`)
	rows("apart", "long lists apart", merged, `net.cidr_merge`)
}

// units checks units.parse and units.parse_bytes: 1e999999 is a number of a million digits.
func units(args []*ast.Term) verdict {
	s := strings.ToLower(stringOf(args[0]))
	if v := atMost(maxVersion, 0)(args); v.refused != "" {
		return v
	}
	for rest := s; ; {
		_, after, found := strings.Cut(rest, "e")
		if !found {
			return verdict{}
		}
		rest = after
		after = strings.TrimLeft(after, "+-")
		n := 0
		for n < len(after) && '0' <= after[n] && after[n] <= '9' {
			n++
		}
		if n > 3 {
			return verdict{refused: fmt.Sprintf("a number of more than %d digits", MaxNumber)}
		}
	}
}

// ranges is numbers.range and numbers.range_step. They honour the deadline, but there may be none.
func ranges(name string) func(topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(original topdown.BuiltinFunc) topdown.BuiltinFunc {
		return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
			span, ok := ranged(args, name == "numbers.range_step")
			if !ok || span <= MaxList {
				return original(bctx, args, iter)
			}
			// The maximum, so that the deadline comes first where there is one.
			most := []*ast.Term{ast.InternedTerm(1), ast.InternedTerm(MaxList)}
			if name == "numbers.range_step" {
				most = append(most, ast.InternedTerm(1))
			}
			if err := original(bctx, most, func(*ast.Term) error { return nil }); err != nil {
				return err
			}
			return limit(name, bctx.Location, fmt.Sprintf("more than %d numbers", MaxList))
		}
	}
}

// ranged estimates how many numbers a range has; false if the operands are no range.
func ranged(args []*ast.Term, stepped bool) (float64, bool) {
	var of [3]float64
	of[2] = 1
	for i := range args[:2] {
		n, ok := args[i].Value.(ast.Number)
		if !ok {
			return 0, false
		}
		if of[i], ok = n.Float64(); !ok {
			of[i] = math.Inf(1)
		}
	}
	if stepped {
		if by, ok := args[2].Value.(ast.Number); ok {
			of[2], _ = by.Float64()
		}
	}
	return math.Abs(of[1]-of[0]) / max(of[2], 1), true
}

// expandedNet checks net.cidr_expand.
func expandedNet(args []*ast.Term) verdict {
	address, prefix, _ := strings.Cut(stringOf(args[0]), "/")
	bits := 32
	if strings.Contains(address, ":") {
		bits = 128
	}
	n := 0
	for _, c := range prefix {
		if c < '0' || c > '9' || n > 128 {
			return verdict{} // not a network
		}
		n = n*10 + int(c-'0')
	}
	if bits-n > 18 {
		return verdict{refused: fmt.Sprintf("more than %d addresses", maxAddresses)}
	}
	return verdict{}
}

func length(v ast.Value) int {
	switch v := v.(type) {
	case *ast.Array:
		return v.Len()
	case ast.Set:
		return v.Len()
	case ast.Object:
		return v.Len()
	}
	return 1
}

// pairs checks built-ins that compare each element of one list with each of another.
func pairs(args []*ast.Term) verdict {
	n := length(args[0].Value) * length(args[1].Value)
	if n > maxPairs {
		return verdict{refused: fmt.Sprintf("more than %d pairs", maxPairs)}
	}
	return verdict{work: n * 64}
}

// subset checks object.subset, which searches for one list in the other at each position.
func subset(args []*ast.Term) verdict {
	bound := weight{nodes: 4096, text: 1 << 20, depth: MaxNesting}
	if _, small := weigh(args[1].Value, bound); small {
		if _, list := args[0].Value.(*ast.Array); !list { // each member is looked up: the other operand, from a policy's data, may be large
			return verdict{}
		}
		if _, small := weigh(args[0].Value, bound); small {
			return verdict{}
		}
	}
	switch {
	case length(args[0].Value) < 64 || length(args[1].Value) < 64:
		return verdict{work: isolatedWork + 1}
	}
	return pairs(args)
}

// merged checks net.cidr_merge.
func merged(args []*ast.Term) verdict {
	n := length(args[0].Value)
	if n > 100_000 {
		return verdict{refused: "more than 100000 networks"}
	}
	return verdict{work: n * 256}
}

// tokens checks built-ins that verify a token with the key at this operand.
func tokens(key int) func([]*ast.Term) verdict {
	check := keyed(64<<10, key)
	return func(args []*ast.Term) verdict {
		v := check(args)
		v.work = v.work/16 + len(stringOf(args[0]))*8
		return v
	}
}

// signed checks the signing built-ins: the last of three operands is the key.
func signed(args []*ast.Term) verdict {
	if v := keyed(maxPrivateKey, 2)(args); v.refused != "" {
		return v
	}
	v := walked(4, 0, 1)(args)
	v.work += isolatedWork + 1
	return v
}

// module checks rego.parse_module.
func module(args []*ast.Term) verdict {
	s := stringOf(args[1])
	open := strings.Count(s, "(") + strings.Count(s, "[") + strings.Count(s, "{") // closing brackets may be quoted
	if len(s) > maxModule || open > maxBrackets {
		return verdict{refused: fmt.Sprintf("a module of more than %d bytes or %d brackets", maxModule, maxBrackets)}
	}
	return verdict{work: isolatedWork + 1}
}
