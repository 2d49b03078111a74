package gate_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/routes"
)

// refused is bad_request.
const refused = "refused"

// parts makes a body of multipart/form-data with the boundary X: each part is its headers, an empty line, its content, with \n for CRLF.
func parts(all ...string) string {
	var b strings.Builder
	for _, p := range all {
		b.WriteString("--X\n" + p + "\n")
	}
	return strings.ReplaceAll(b.String()+"--X--\n", "\n", "\r\n")
}

const named = "Content-Disposition: form-data; name="

// TestBodies parses each body by its type, and rejects ambiguous ones.
func TestBodies(t *testing.T) {
	multi, amount := "multipart/form-data; boundary=X", parts(named+"\"amount\"\n\n50")
	form, document := "application/x-www-form-urlencoded", "application/json"
	rows := []struct{ name, kind, body, want string }{
		{"one part", multi, amount, `{"amount":["50"]}`},
		{"quoted boundary", `multipart/form-data; boundary="X"`, amount, `{"amount":["50"]}`},
		{"charset too", "Multipart/Form-Data; charset=utf-8; boundary=X", amount, `{"amount":["50"]}`},
		{"unquoted name", multi, parts(named + "amount\n\n50"), `{"amount":["50"]}`},
		{"name beyond ASCII", multi, parts(named + "\"größe\"\n\n50"), `{"größe":["50"]}`},
		{"order of one name", multi, parts(named+"\"a\"\n\n2", named+"\"b\"\n\n3", named+"\"a\"\n\n1"), `{"a":["2","1"],"b":["3"]}`},
		{"a file", multi, parts(named + "\"f\"; filename=\"a b.txt\"\nContent-Type: text/plain\n\nhello"), `{"f":["hello"]}`},
		{"a file as .NET sends it", multi, parts(named + "f; filename=a.txt; filename*=utf-8''a.txt\n\nhello"), `{"f":["hello"]}`},
		{"JSON part", multi, parts(named + "\"a\"\nContent-Type: application/json\n\n{\"b\":1}"), `{"a":[{"b":1}]}`},
		{"+json part", multi, parts(named + "\"a\"\nContent-Type: application/x+json\n\n[1]"), `{"a":[[1]]}`},
		{"what Apache's client adds", multi, parts(named + "\"a\"\nContent-Type: text/plain; charset=ISO-8859-1\nContent-Transfer-Encoding: 8bit\n\n50"), `{"a":["50"]}`},
		{"empty", multi, "--X--\r\n", `{}`},
		{"without a name", multi, parts("Content-Disposition: form-data\n\n50"), `{}`},
		{"line ends in the content", multi, parts(named + "\"a\"\n\n1\n\n2\n"), `{"a":["1\r\n\r\n2\r\n"]}`},
		{"no boundary", "multipart/form-data", amount, `null`},

		{"boundary, then a name alone", "multipart/form-data; boundary=X; foo", amount, refused},
		{"two boundaries", "multipart/form-data; boundary=Y; boundary=X", amount, refused},
		{"two boundaries in two cases", "multipart/form-data; boundary=X; Boundary=Y", amount, refused},
		{"two charsets", "multipart/form-data; boundary=X; charset=utf-8; charset=utf-8", amount, refused},
		{"charset UTF-16", "multipart/form-data; boundary=X; charset=utf-16", amount, refused},
		{"charset UTF-7", "multipart/form-data; boundary=X; charset=utf-7", amount, refused},
		{"empty boundary", "multipart/form-data; boundary=", amount, refused},
		{"empty boundary in quotes", `multipart/form-data; boundary=""`, amount, refused},
		{"space in the boundary", `multipart/form-data; boundary="X Y"`, strings.ReplaceAll(amount, "X", "X Y"), refused},
		{"escape in the boundary", `multipart/form-data; boundary="\X"`, amount, refused},
		{"open quote", `multipart/form-data; boundary="X`, amount, refused},
		{"text after the quote", `multipart/form-data; boundary="X"Y`, amount, refused},
		{"long boundary", "multipart/form-data; boundary=" + strings.Repeat("X", 71), strings.ReplaceAll(amount, "X", strings.Repeat("X", 71)), refused},
		{"boundary that is no RFC 2046 one", "multipart/form-data; boundary=X!", strings.ReplaceAll(amount, "X", "X!"), refused},
		{"boundary of RFC 2231", "multipart/form-data; boundary*=utf-8''X", amount, refused},
		{"boundary continued", "multipart/form-data; boundary*0=X; boundary*1=Y", amount, refused},
		{"boundary beside a continued one", "multipart/form-data; boundary=X; boundary*0=Y", amount, refused},
		{"space before =", "multipart/form-data; boundary =X", amount, refused},
		{"space after =", "multipart/form-data; boundary= X", amount, refused},
		{"tab", "multipart/form-data;\tboundary=X", amount, refused},
		{"two types joined", "multipart/form-data; boundary=X, multipart/form-data; boundary=Y", amount, refused},
		{"two types joined in quotes", `multipart/form-data; boundary="X,multipart/form-data; boundary=Y"`, amount, refused},
		{"no subtype", "multipart", amount, refused},

		{"parameter without a value", multi, parts(named + "\"amount\"; foo\n\n50"), refused},
		{"unknown parameter", multi, parts(named + "\"amount\"; foo=bar\n\n50"), refused},
		{"two names", multi, parts(named + "\"a\"; name=\"amount\"\n\n50"), refused},
		{"two names in two cases", multi, parts(named + "\"a\"; Name=\"amount\"\n\n50"), refused},
		{"attachment", multi, parts("Content-Disposition: attachment; name=\"a\"\n\n50"), refused},
		{"escape in the name", multi, parts(named + "\"r\\ole\"\n\n50"), refused},
		{"quote in the name", multi, parts(named + "\"a\\\"b\"\n\n50"), refused},
		{"percent-encoded quote", multi, parts(named + "\"a%22b\"\n\n50"), refused},
		{"unquoted name with a space", multi, parts(named + "a b\n\n50"), refused},
		{"space before the colon", multi, parts("Content-Disposition : form-data; name=\"a\"\n\n50"), refused},
		{"space before the header", multi, parts(" Content-Disposition: form-data; name=\"a\"\n\n50"), refused},
		{"underscore", multi, parts("Content_Disposition: form-data; name=\"b\"\nContent-Disposition: form-data; name=\"a\"\n\n50"), refused},
		{"empty name", multi, parts(named + "\"\"\n\n50"), refused},
		{"spaces around the name", multi, parts(named + "\" a \"\n\n50"), refused},
		{"no-break space after the name", multi, parts(named + "\"a\u00a0\"\n\n50"), refused},
		{"control character in the name", multi, parts(named + "\"a\x1c\"\n\n50"), refused},
		{"name that is not UTF-8", multi, parts(named + "\"a\xff\"\n\n50"), refused},
		{"name*", multi, parts(named + "\"a\"; name*=utf-8''b\n\n50"), refused},
		{"name continued", multi, parts("Content-Disposition: form-data; name*0=a; name*1=b\n\n50"), refused},
		{"name continued beside a whole one", multi, parts(named + "\"a\"; name*0=b\n\n50"), refused},
		{"filename* in Latin-1", multi, parts(named + "\"a\"; filename*=iso-8859-1''%e4\n\n50"), refused},
		{"filename without a name", multi, parts("Content-Disposition: form-data; filename=\"a\"\n\n50"), refused},
		{"name behind the file's", multi, parts("Content-Disposition: form-data; filename=\"a\"; name=\"b\"\n\n50"), refused},
		{"comma for a semicolon", multi, parts("Content-Disposition: form-data, name=\"a\"\n\n50"), refused},
		{"two dispositions", multi, parts(named + "\"a\"\n" + named + "\"b\"\n\n50"), refused},
		{"two types of a part", multi, parts(named + "\"a\"\nContent-Type: text/plain\nContent-Type: application/json\n\n50"), refused},
		{"two headers of a part in two cases", multi, parts(named + "\"a\"\nX-A: 1\nx-a: 1\n\n50"), refused},
		{"no disposition", multi, parts("Content-Type: text/plain\n\n50"), refused},
		{"no headers", multi, parts("\n50"), refused},
		{"folded header", multi, parts("Content-Disposition: form-data;\n name=\"a\"\n\n50"), refused},
		{"folded header with a tab", multi, parts("X-A: b\n\tname=c\n" + named + "\"a\"\n\n50"), refused},
		{"tab in a header", multi, parts("Content-Disposition:\tform-data; name=\"a\"\n\n50"), refused},
		{"NUL in a header", multi, parts("X-A: \x00\n" + named + "\"a\"\n\n50"), refused},
		{"header without a colon", multi, parts("X-A\n" + named + "\"a\"\n\n50"), refused},
		{"many headers", multi, parts(named + "\"a\"" + manyHeaders(20) + "\n\n50"), refused},
		{"long headers", multi, parts(named + "\"a\"\nX-A: " + strings.Repeat("x", 9000) + "\n\n50"), refused},
		{"quoted-printable", multi, parts(named + "\"a\"\nContent-Transfer-Encoding: quoted-printable\n\n=35=30"), refused},
		{"base64", multi, parts(named + "\"a\"\nContent-Transfer-Encoding: base64\n\nNTA="), refused},
		{"encoding with a parameter", multi, parts(named + "\"a\"\nContent-Transfer-Encoding: base64; x\n\nNTA="), refused},
		{"compressed part", multi, parts(named + "\"a\"\nContent-Encoding: gzip\n\n50"), refused},
		{"part in another charset", multi, parts(named + "\"a\"\nContent-Type: text/plain; charset=utf-16\n\n50"), refused},
		{"part in Latin-1, beyond ASCII", multi, parts(named + "\"a\"\nContent-Type: text/plain; charset=iso-8859-1\n\nü"), refused},
		{"_charset_", multi, parts(named+"\"_charset_\"\n\nutf-16", named+"\"a\"\n\n50"), refused},
		{"nested", multi, parts(named + "\"a\"\nContent-Type: multipart/mixed; boundary=Y\n\n--Y--"), refused},
		{"field that is not UTF-8", multi, parts(named + "\"a\"\n\n\xff"), refused},
		{"filename* alone", multi, parts(named + "\"a\"; filename*=utf-8''b\n\n50"), refused},
		{"no file chosen", multi, parts(named + "\"a\"; filename=\"\"\nContent-Type: application/octet-stream\n\n"), `{"a":[""]}`},
		{"file with and file without a name", multi, parts(named+"\"a\"; filename=\"x\"\n\n50", named+"\"a\"; filename=\"\"\n\n100000"), refused},
		{"field and file without a name", multi, parts(named+"\"a\"\n\n50", named+"\"a\"; filename=\"\"\n\n100000"), refused},
		{"file without a name that is not UTF-8", multi, parts(named + "\"a\"; filename=\"\"\n\n\xff"), refused},
		{"field and file of one name", multi, parts(named+"\"a\"; filename=\"x\"\n\n50", named+"\"a\"\n\n100000"), refused},

		{"preamble", multi, "preamble\r\n" + amount, refused},
		{"line before it", multi, "\r\n" + amount, refused},
		{"epilogue", multi, amount + "epilogue", refused},
		{"part in the epilogue", multi, amount + "\r\n" + named + "\"a\"\r\n\r\n1\r\n--X--", refused},
		{"part before the first delimiter", multi, named + "\"a\"\r\n\r\n1\r\n" + amount, refused},
		{"spaces behind the delimiter", multi, strings.Replace(amount, "--X\r\n", "--X \r\n", 1), refused},
		{"text behind the delimiter", multi, strings.Replace(amount, "--X\r\n", "--Xx\r\n", 1), refused},
		{"text behind the last delimiter", multi, strings.Replace(amount, "--X--", "--X--junk", 1), refused},
		{"no last delimiter", multi, strings.Replace(amount, "--X--", "--X", 1), refused},
		{"cut off", multi, amount[:len(amount)-8], refused},
		{"LF only", multi, strings.ReplaceAll(amount, "\r\n", "\n"), refused},
		{"CR only", multi, strings.ReplaceAll(amount, "\r\n", "\r"), refused},
		{"LF before a delimiter", multi, parts(named + "\"a\"\n\n50\x00"), `{"a":["50` + `\u0000` + `"]}`},
		{"delimiter after LF", multi, strings.Replace(parts(named+"\"a\"\n\n1|--X"), "|", "\n", 1), refused},
		{"delimiter after CR", multi, strings.Replace(parts(named+"\"a\"\n\n1|--X\n"+named+"\"b\"\n\n2"), "|", "\r", 1), refused},
		{"delimiter in a line", multi, parts(named + "\"a\"\n\n1--X"), refused},
		{"longer delimiter", multi, parts(named + "\"a\"\n\n1\n--XX\n" + named + "\"b\"\n\n2"), refused},
		{"delimiter as a header", multi, parts("--X: a\n" + named + "\"a\"\n\n1"), refused},
		{"delimiter right behind the headers", multi, "--X\r\n" + named + "\"a\"\r\n\r\n--X--\r\n", refused},
		{"bare CR behind a header", multi, strings.Replace(amount, "\r\n\r\n", "\r\r\n\r\n", 1), refused},
		{"too many parts", multi, parts(strings.Split(strings.Repeat(named+"\"a\"\n\n1|", 1100), "|")[:1100]...), refused},

		{"form", form, "a=1&a=&b=x+y%2B&c", `{"a":["1",""],"b":["x y+"],"c":[""]}`},
		{"form in UTF-8", form + "; charset=UTF-8", "a=%C3%BC", `{"a":["ü"]}`},
		{"form in ASCII", form + "; charset=us-ascii", "a=1", `{"a":["1"]}`},
		{"form of semicolons", form, "a=1;b=2", refused},
		{"form with a bad escape", form, "a=%zz&%=100%", `{"a":["%zz"],"%":["100%"]}`},
		{"form with an escape cut off", form, "a=1&b=%4", `{"a":["1"],"b":["%4"]}`},
		{"form with a bad escape in a charset", form + "; charset=us-ascii", "a=%zz%C3%BC", refused},
		{"form that is not UTF-8", form, "a=%FF", refused},
		{"form with a surrogate", form, "a=%ED%A0%80", refused},
		{"form with bytes that are not escaped", form, "r\u00f4le=x", refused},
		{"form in UTF-16", form + "; charset=utf-16", "a=1", refused},
		{"form in UTF-7", form + "; charset=utf-7", "a=+AGE-", refused},
		{"form in Latin-1, beyond ASCII", form + "; charset=iso-8859-1", "a=%C3%BC", refused},
		{"form in ASCII, beyond it", form + "; charset=ascii", "%C3%BC=1", refused},
		{"form in a charset that is none", form + "; charset=x", "a=1", refused},
		{"form with too many fields", form, strings.Repeat("a&", 10_001), refused},
		{"form, a name alone", form + "; foo", "a=1", refused},

		{"JSON", document, ` {"a": [1, 2.50, "x", true, null, {}], "b": 12345678901234567890} `, `{"a":[1,2.50,"x",true,null,{}],"b":12345678901234567890}`},
		{"JSON's escapes", document, `"\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t"`, `"é😀\"\\/\b\f\n\r\t"`},
		{"the last of two members", document, `{"a":1,"\u0061":2}`, `{"a":2}`},
		{"JSON:API", "application/vnd.api+json", `{"a":1}`, `{"a":1}`},
		{"merge patch", "application/merge-patch+json; charset=utf-8", `{"a":1}`, `{"a":1}`},
		{"JSON with parameters", `application/json; version=2; profile="a;b"`, `1`, `1`},
		{"JSON with a closing semicolon", "application/json;", `1`, `1`},
		{"JSON in Latin-1, ASCII", "application/json; charset=iso-8859-1", `"a"`, `"a"`},
		{"JSON in Latin-1", "application/json; charset=iso-8859-1", `"é"`, refused},
		{"JSON in UTF-16", "application/json; charset=utf-16", `"a"`, refused},
		{"JSON in UTF-7", "application/json; charset=utf-7", `"+AGE-"`, refused},
		{"JSON in another charset", "application/json; charset=cp037", `"a"`, refused},
		{"two charsets of JSON", "application/json; charset=utf-8; charset=utf-16", `"a"`, refused},
		{"UTF-16", document, "{\x00}\x00", refused},
		{"UTF-16 with a mark", document, "\xff\xfe{\x00}\x00", refused},
		{"UTF-32", document, "{\x00\x00\x00}\x00\x00\x00", refused},
		{"byte order mark", document, "\ufeff{}", refused},
		{"not UTF-8", document, "\"\xff\"", refused},
		{"surrogate in UTF-8", document, "{\"\xed\xa0\x80\":1}", refused},
		{"lone surrogate", document, `{"\ud800":1,"\ud801":2}`, refused},
		{"low surrogate first", document, `"\ude00\ud83d"`, refused},
		{"surrogate before another escape", document, `"\ud83d\u0061"`, refused},
		{"NaN", document, `NaN`, refused},
		{"infinity", document, `[-Infinity]`, refused},
		{"number that a float has as infinity", document, `1e400`, refused},
		{"number that a float has as zero", document, `1e-400`, refused},
		{"zero with an exponent", document, `0e9`, `0e9`},
		{"long number", document, strings.Repeat("9", 1001), refused},
		{"number with a zero before it", document, `01`, refused},
		{"number with a plus", document, `+1`, refused},
		{"hexadecimal", document, `0x10`, refused},
		{"single quotes", document, `{'a':1}`, refused},
		{"comma at the end", document, `[1,]`, refused},
		{"no comma", document, `[1 2]`, refused},
		{"a comment", document, `{}//`, refused},
		{"two documents", document, `{} {}`, refused},
		{"lines of documents", document, "{}\n{}\n", refused},
		{"line end in a string", document, "\"\n\"", refused},
		{"escape that is none", document, `"\x41"`, refused},
		{"deep", document, strings.Repeat("[", 500) + strings.Repeat("]", 500), strings.Repeat("[", 500) + strings.Repeat("]", 500)},
		{"deeper", document, strings.Repeat("[", 502) + strings.Repeat("]", 502), refused},
		{"deep and open", document, strings.Repeat(`{"a":`, 100_000), refused},
		{"form that says JSON", document, "a=1", refused},

		{"no type", "", `{}`, `null`},
		{"another type", "text/plain; charset=utf-16", `{}`, `null`},
		{"lines of JSON", "application/x-ndjson", "{}\n{}", `null`},
		{"JSON sequence", "application/json-seq", "\x1e{}\n", `null`},
		{"any type", "*/*", `{}`, refused},
		{"any application type", "application/*", `{}`, refused},
		{"no type before the slash", "/json", `{}`, refused},
		{"space in the type", "application/ json", `{}`, refused},
		{"two types", "application/json, text/plain", `{}`, refused},
		{"control character in the type", "application/json\x0b", `{}`, refused},
		{"type that is not ASCII", "application/jsön", `{}`, refused},
	}
	g := open(t, settings(), compile(t, showsBody))
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := readBody(t, g, sent{tt.kind, tt.body})
			if !ok {
				got = json.RawMessage(refused)
			}
			if string(got) == tt.want {
				return
			}
			if tt.want == refused || string(got) == refused {
				t.Fatalf("%q: got %s, want %s", tt.body, got, tt.want)
			}
			if diff := cmp.Diff(normal(json.RawMessage(tt.want)), normal(got)); diff != "" {
				t.Errorf("%q: got (+), want (-):\n%s", tt.body, diff)
			}
		})
	}
}

func manyHeaders(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "\nX-%d: a", i)
	}
	return b.String()
}

// TestBodyHeaders rejects a body with duplicate type, length or encoding, where the policy reads it.
func TestBodyHeaders(t *testing.T) {
	reads := open(t, settings(), compile(t, "package envoy.authz\ndefault allow := false\nallow if input.parsed_body.a == 1"))
	blind := open(t, settings(), compile(t, "package envoy.authz\nallow if input.attributes.request.http.method == \"GET\""))
	for name, tt := range map[string]struct {
		headers []string
		want    gate.Reason
	}{
		"one type":             {[]string{"content-type", "application/json"}, gate.None},
		"two types":            {[]string{"content-type", "application/json", "content-type", "application/json"}, gate.BadRequest},
		"another spelling":     {[]string{"content-type", "application/json", "content_type", "text/plain"}, gate.BadRequest},
		"only that":            {[]string{"content_type", "application/json"}, gate.BadRequest},
		"length, respelt":      {[]string{"content-type", "application/json", "content_length", "3"}, gate.BadRequest},
		"two lengths":          {[]string{"content-type", "application/json", "content-length", "7", "content-length", "3"}, gate.BadRequest},
		"compressed":           {[]string{"content-type", "application/json", "content-encoding", "gzip"}, gate.BadRequest},
		"not compressed":       {[]string{"content-type", "application/json", "content-encoding", "identity"}, gate.None},
		"two encodings":        {[]string{"content-type", "application/json", "content-encoding", "identity", "content-encoding", "br"}, gate.BadRequest},
		"compressed, no type":  {[]string{"content-encoding", "gzip"}, gate.Denied},
		"cut off, by Envoy":    {[]string{"content-type", "application/json", "x-envoy-auth-partial-body", "true"}, gate.Denied},
		"cut off, client lies": {[]string{"content-type", "application/json", "x-envoy-auth-partial-body", "false", "x-envoy-auth-partial-body", "true"}, gate.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			req := get("/", tt.headers...)
			req.Body = `{"a":1}`
			if a := reads.Check(t.Context(), req); a.Reason != tt.want {
				t.Errorf("a rule that reads the body: %v, want %v (%v)", a.Reason, tt.want, a.Diagnostics.Cause)
			}
			if a := blind.Check(t.Context(), req); a.Reason != gate.None {
				t.Errorf("a rule that does not: %v (%v)", a.Reason, a.Diagnostics.Cause)
			}
		})
	}
}

// TestBodiesAsText: an exclamation mark, which may replace any byte, is rejected where it would change the meaning. It is logged once.
func TestBodiesAsText(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	g := gatetest.Start(t, gate.Config{Logger: zap.New(core)}, gatetest.With(t, settings(), compile(t, showsBody)))
	if notices := g.Notices(); notices != nil {
		t.Errorf("notices before any request: %q", notices)
	}
	multi := "multipart/form-data; boundary=X"
	for name, tt := range map[string]struct {
		kind, body string
		refused    bool
	}{
		"field":                   {multi, parts(named + "\"a\"\n\nwell!"), false},
		"name":                    {multi, parts(named + "\"a!\"\n\n50"), true},
		"file's name":             {multi, parts(named + "\"a\"; filename=\"b!\"\n\n50"), true},
		"header":                  {multi, parts("X-A: b!\n" + named + "\"a\"\n\n50"), true},
		"header's name":           {multi, parts("X-A!: b\n" + named + "\"a\"\n\n50"), true},
		"boundary":                {multi + "!", strings.ReplaceAll(parts(named+"\"a\"\n\n50"), "--X", "--X!"), true},
		"quoted boundary":         {`multipart/form-data; boundary="X!"`, strings.ReplaceAll(parts(named+"\"a\"\n\n50"), "--X", "--X!"), true},
		"line like a delimiter":   {multi, parts(named + "\"a\"\n\n50\n--X!\n" + named + "\"a\"\n\n100000"), true},
		"behind a delimiter":      {multi, strings.Replace(parts(named+"\"a\"\n\n50"), "--X\r\n", "--X!\r\n", 1), true},
		"epilogue":                {multi, parts(named+"\"a\"\n\n50") + "!", true},
		"JSON value":              {"application/json", `{"a":"well!"}`, false},
		"JSON name":               {"application/json", `{"a!":1}`, true},
		"JSON name within":        {"application/json", `[{"b":{"a!":1}}]`, true},
		"JSON name in a part":     {multi, parts(named + "\"a\"\nContent-Type: application/json\n\n{\"b!\":1}"), true},
		"form value":              {"application/x-www-form-urlencoded", "a=well!", false},
		"form name":               {"application/x-www-form-urlencoded", "a!=1", true},
		"form name, escaped":      {"application/x-www-form-urlencoded", "a%21=1", false},
		"another type":            {"text/plain", "!", false},
		"without exclamation":     {multi, parts(named + "\"a\"\n\n50"), false},
		"parameter of JSON":       {"application/json; charset=utf-8!", `1`, true},
		"JSON that begins with !": {"application/json", `!!{}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			req := get("/", "content-type", tt.kind)
			req.Body, req.LossyBody = tt.body, true
			if a := g.Check(t.Context(), req); (a.Reason == gate.BadRequest) != tt.refused || a.Reason != gate.BadRequest && a.Reason != gate.None {
				t.Errorf("got %v (%v), refused should be %v", a.Reason, a.Diagnostics.Cause, tt.refused)
			}
		})
	}
	if notices := g.Notices(); len(notices) != 1 || !strings.Contains(notices[0], "pack_as_bytes: true") {
		t.Errorf("notices: %q", notices)
	}
	if n := logs.FilterMessage("a proxy sends bodies as text").Len(); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestBodyIsReadByTheRule: a body is not parsed if the rule does not read it, or the route turns that off.
func TestBodyIsReadByTheRule(t *testing.T) {
	lines := "{\"a\":1}\n{\"a\":2}\n"
	post := func(path, body string, headers ...string) *gate.Request {
		req := get(path, append([]string{"content-type", "application/json"}, headers...)...)
		req.Method, req.Body = "POST", body
		return req
	}
	p := compileFiles(t, `package orders.POST.orders
allowed if input.parsed_body.a == 1`, `package orders.POST.events
allowed if input.route.template == "/events"`)
	rules := openApps(t, p, map[string]*routes.Table{"": routeTable(t, "openapi", "- POST /orders", "- POST /events")}, gate.App{Root: []string{"orders"}})
	one := openApps(t, compileFiles(t, `package envoy.authz
allow if input.parsed_body.a == 1
allow if {
	input.parsed_path == ["events"]
	input.parsed_body == null
}`), map[string]*routes.Table{"": routeTable(t, "openapi", "- {route: POST /orders, body: parse}", "- {route: POST /events, body: ignore}")},
		gate.App{Decision: []string{"envoy", "authz", "allow"}})
	for name, g := range map[string]*gate.Gate{"a rule for each route": rules, "one decision": one} {
		for _, tt := range []struct {
			name string
			req  *gate.Request
			want gate.Reason
		}{
			{"read, and JSON", post("/orders", `{"a":1}`), gate.None},
			{"read, and lines of JSON", post("/orders", lines), gate.BadRequest},
			{"read, and compressed", post("/orders", "\x1f\x8b\x08", "content-encoding", "gzip"), gate.BadRequest},
			{"not read, and lines of JSON", post("/events", lines), gate.None},
			{"not read, and compressed", post("/events", "\x1f\x8b\x08", "content-encoding", "gzip"), gate.None},
			{"not read, and no media type", post("/events", "x", "content-type", "x"), gate.None},
		} {
			t.Run(name+": "+tt.name, func(t *testing.T) {
				if a := g.Check(t.Context(), tt.req); a.Reason != tt.want {
					t.Errorf("got %v, want %v (%v)", a.Reason, tt.want, a.Diagnostics.Cause)
				}
			})
		}
	}
}

// FuzzBodies holds the reader of bodies against what must be true of every body: it ends, what it gives is text and JSON, and JSON is what
// encoding/json has.
func FuzzBodies(f *testing.F) {
	f.Add("application/json", `{"a":[1,2.5e3,"\u00e9",null]}`)
	f.Add("application/vnd.api+json; charset=utf-8", `{"\ud83d\ude00":-0.1}`)
	f.Add("application/x-www-form-urlencoded", "a=1&b=%20+x&c")
	f.Add(`multipart/form-data; boundary="X"`, parts(named+"\"a\"\n\n1", named+"b; filename=c\nContent-Type: application/json\n\n{}"))
	g := open(f, settings(), compile(f, showsBody))
	f.Fuzz(func(t *testing.T, kind, body string) {
		req := get("/", "content-type", kind)
		req.Body, req.RawBody = body, true
		a := g.Check(t.Context(), req)
		switch a.Reason {
		case gate.BadRequest, gate.PolicyError, gate.Timeout:
			return
		case gate.None:
		default:
			t.Fatalf("%v: %v", a.Reason, a.Diagnostics.Cause)
		}
		text, _ := a.Metadata["body"].(string)
		if !json.Valid([]byte(text)) || !utf8.ValidString(text) {
			t.Fatalf("parsed_body is %q", text)
		}
		if strings.HasPrefix(strings.ToLower(kind), "application/json") && text != "null" {
			if !reflect.DeepEqual(normal(json.RawMessage(body)), normal(json.RawMessage(text))) { // cmp takes exponential time for what is nested
				t.Fatalf("%q: %q", body, text)
			}
		}
	})
}
