package gate_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"gatehouse/envoy/sandbox"
	"gatehouse/gate"
)

// The differential test of bodies: Flask, FastAPI and Django say what they read, and whatever the policy is asked about must be the same.
// GATEHOUSE_BODIES sets how many bodies each kind gets, GATEHOUSE_BODIES_SEED another seed.

// sent is one body with its content type.
type sent struct{ kind, body string }

func (s sent) String() string { return fmt.Sprintf("%q\n%q", s.kind, s.body) }

// view is what a framework made of a body.
type view struct {
	Error  string          `json:"error"`
	Fields [][2]string     `json:"fields"`
	Files  [][2]string     `json:"files"`
	JSON   json.RawMessage `json:"json"`
}

func TestFrameworksReadTheSameBody(t *testing.T) {
	frameworks := map[string]*reader{}
	for _, name := range []string{"flask", "fastapi", "django"} {
		frameworks[name] = startReader(t, name)
	}
	g := open(t, settings(), compile(t, showsBody))
	for kind, make := range map[string]func(*generator) sent{"multipart": multipartOf, "form": formOf, "json": jsonOf} {
		t.Run(kind, func(t *testing.T) {
			random := newGenerator(t)
			bodies := make500(random, make)
			taken, wrong := 0, 0
			for start := 0; start < bodyCount(t) && wrong < 10; start += len(bodies) {
				var ours []json.RawMessage
				var asked []sent
				for _, s := range bodies {
					if doc, ok := readBody(t, g, s); ok && string(doc) != "null" {
						asked, ours = append(asked, s), append(ours, doc)
					}
				}
				taken += len(asked)
				for name, framework := range frameworks {
					for i, theirs := range framework.ask(t, asked) {
						if diff := disagree(asked[i], ours[i], theirs); diff != "" && wrong < 10 {
							wrong++
							t.Errorf("%s reads another body:\n%s\nours %s\n%s", name, asked[i], ours[i], diff)
						}
					}
				}
				bodies = make500(random, make)
			}
			t.Logf("%d of %d bodies are taken", taken, bodyCount(t))
			if taken < bodyCount(t)/10 {
				t.Error("the bodies say little")
			}
		})
	}
}

const showsBody = `package envoy.authz
allow := {"allowed": true, "dynamic_metadata": {"body": json.marshal(input.parsed_body)}}`

// readBody gives what the policy reads of a body, not ok where it is not asked.
func readBody(t testing.TB, g *gate.Gate, s sent) (doc json.RawMessage, ok bool) {
	req := get("/", "content-type", s.kind)
	req.Method, req.Body, req.RawBody = "POST", s.body, true
	a := g.Check(t.Context(), req)
	if a.Reason == gate.BadRequest {
		return nil, false
	}
	if a.Reason != gate.None {
		t.Fatalf("%s\n%v %v", s, a.Reason, a.Diagnostics.Cause)
	}
	text, _ := a.Metadata["body"].(string)
	return json.RawMessage(text), true
}

func bodyCount(t testing.TB) int { return number(t, "GATEHOUSE_BODIES", bodies) }

func number(t testing.TB, name string, normal int) int {
	text := os.Getenv(name)
	if text == "" {
		return normal
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func make500(g *generator, make func(*generator) sent) (out []sent) {
	for range 500 {
		out = append(out, make(g))
	}
	return out
}

// disagree says what of a framework's view is not in ours, or what of ours the application does not get. A framework that refuses a
// body serves nothing.
func disagree(s sent, ours json.RawMessage, theirs view) string {
	switch {
	case theirs.Error != "":
		return ""
	case len(theirs.Fields) == 0 && len(theirs.Files) == 0 && theirs.JSON == nil && strings.Contains(strings.ToLower(s.kind), "json"):
		return "" // to the framework it is no JSON; an application that parses it nevertheless has the bytes
	case theirs.JSON != nil:
		return cmp.Diff(normal(ours), normal(theirs.JSON))
	}
	var fields map[string][]any
	if err := json.Unmarshal(ours, &fields); err != nil {
		return "not a form to us: " + err.Error()
	}
	got, files := map[string][]any{}, map[string][]any{}
	for _, f := range theirs.Fields {
		got[f[0]] = append(got[f[0]], f[1])
	}
	for _, f := range theirs.Files {
		files[f[0]] = append(files[f[0]], f[1])
	}
	for name, values := range got {
		if diff := cmp.Diff(texts(fields[name], values), values); diff != "" {
			return fmt.Sprintf("field %q: %s", name, diff)
		}
	}
	for name, values := range files {
		mine := texts(fields[name], values)
		for _, v := range values { // Django leaves out files without a name
			at := slices.Index(mine, v)
			if at < 0 {
				return fmt.Sprintf("file %q: %v, ours are %v", name, values, mine)
			}
			mine = mine[at+1:]
		}
	}
	for name := range fields {
		if got[name] == nil && files[name] == nil && !onlyFiles(name) {
			return fmt.Sprintf("field %q is not theirs", name)
		}
	}
	return ""
}

// onlyFiles are the names that the generator gives to files, which Django leaves out where they have no name of their own.
func onlyFiles(name string) bool { return strings.HasPrefix(name, "file") }

// texts is our list as text: parts that are JSON are values for us. Where a value is the same as JSON, it is theirs.
func texts(ours, theirs []any) []any {
	out := slices.Clone(ours)
	for i := range out {
		if _, isText := out[i].(string); !isText && i < len(theirs) || i < len(theirs) && out[i] != theirs[i] {
			text, _ := theirs[i].(string)
			mine, _ := json.Marshal(out[i])
			if json.Valid([]byte(text)) && cmp.Equal(normal(mine), normal(json.RawMessage(text))) {
				out[i] = text
			}
		}
	}
	return out
}

// normal reads a document with numbers as Python has them: exact integers, and floats.
func normal(doc json.RawMessage) any {
	d := json.NewDecoder(strings.NewReader(string(doc)))
	d.UseNumber()
	var x any
	if err := d.Decode(&x); err != nil {
		return "not JSON: " + err.Error()
	}
	return floats(x)
}

func floats(x any) any {
	switch x := x.(type) {
	case json.Number:
		if s := string(x); strings.ContainsAny(s, ".eE") || s == "-0" {
			f, _ := x.Float64()
			return f + 0
		}
		if f, err := x.Float64(); err == nil && len(x) < 16 {
			return f
		}
	case []any:
		for i := range x {
			x[i] = floats(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = floats(x[k])
		}
	}
	return x
}

// generator makes random bodies, the same for the same seed.
type generator struct{ *rand.Rand }

func newGenerator(t testing.TB) *generator {
	return &generator{rand.New(rand.NewPCG(uint64(number(t, "GATEHOUSE_BODIES_SEED", 1)), 14))}
}

func (g *generator) pick(from ...string) string { return from[g.IntN(len(from))] }

// rare returns the odd value now and then, else the usual one.
func (g *generator) rare(usual string, odd ...string) string {
	if g.IntN(25) == 0 {
		return g.pick(odd...)
	}
	return usual
}

// damaged puts odd things into a text.
func (g *generator) damaged(s string, odd ...string) string {
	for range max(0, g.IntN(8)-5) {
		at := g.IntN(len(s) + 1)
		switch end := min(len(s), at+g.IntN(3)); g.IntN(3) {
		case 0:
			s = s[:at] + g.pick(odd...) + s[at:]
		case 1:
			s = s[:at] + s[end:]
		case 2:
			s = s[:at] + g.pick(odd...) + s[end:]
		}
	}
	return s
}

var oddBytes = []string{"\r", "\n", "\r\n", "\r\n\r\n", "\n\n", "\r\r", `"`, `\`, `\"`, ";", ";;", " ", "\t", "\v", "\f", "\x00", "\x1c", "\x85", "\u0085", "\u2028", "\xff", "\xed\xa0\x80",
	"\u00e9", "%22", "%0d%0a", ":", "=", "--", "--X", "--X--", "\r\n--X", "\r\n--X\r\n", "\r\n--X--\r\n", "\n--X\n", "\r--X\r", "--X--junk", "X", "'", "*", "name=b", `name="b"`,
	`; name="c"`, `; filename="x"`, `; filename*=utf-8''x`, "; foo", "*0=", "!", ",", "=?utf-8?q?b?=", "(c)", "<", ">", "\r\n ", "\r\n\t"}

// multipartOf makes a multipart body around parts that are mostly good.
func multipartOf(g *generator) sent {
	boundary := g.rare("X", "X1", "XX", "X-", "--", "X--", "-", "X'", "X!", "X y", "X:", "aX")
	kind := g.rare("multipart/form-data", "Multipart/Form-Data", "multipart/form-data ", "multipart/form-data;", "multipart/mixed", "multipart / form-data") +
		g.rare("; ", ";", " ; ", "; ;", ";\t", "; charset=utf-8; ", "; charset=latin-1; ", "; charset=utf-7; ", "; charset=us-ascii; ", "; foo; ", `; a="b;c"; `, "; boundary=Y; ") +
		g.rare("boundary=", "Boundary=", "boundary =", "boundary= ", "boundary*=utf-8''", "boundary*0=", "BOUNDARY=") +
		g.rare(boundary, `"`+boundary+`"`, `"`+boundary, boundary+`"`, "'"+boundary+"'") +
		g.rare("", "; foo", "; charset=utf-8", "; charset=iso-8859-1", "; boundary=Y", ";", " ", `; x="\"`, "; charset=utf-8; charset=utf-16", "; =", "; a=b")
	line := g.rare("\r\n", "\n", "\r")
	var b strings.Builder
	b.WriteString(g.rare("", "preamble\r\n", "\r\n", " ", "Content-Disposition: form-data; name=\"p\"\r\n\r\npre\r\n"))
	for range 1 + g.IntN(3) {
		b.WriteString("--" + boundary + g.rare("", " ", "\t", "-", "x") + line + g.part(line) + line)
	}
	b.WriteString("--" + boundary + g.rare("--", "", "-", "-- ", "--x") +
		g.rare("\r\n", "", "\n", "\r\n\r\n", "epilogue", "\r\nepilogue", "\r\nContent-Disposition: form-data; name=\"q\"\r\n\r\nepi\r\n--"+boundary+"--\r\n"))
	return sent{g.damaged(kind, ";", " ", `"`, "=", "X", "\t", ",", "\xff", "*"), g.damaged(b.String(), oddBytes...)}
}

func (g *generator) part(line string) string {
	name := g.rare(g.pick("amount", "amount", "a", "b", "file"), "größe", "a b", `a\"b`, `a\b`, " a", "a ", "", "a%22b", "a%0Ab", "a;b", "a'b", "a[0]", "_charset_", "a=b", "a,b", "a\u00a0", "=?utf-8?q?x?=", "<a>", "a\x00", "a:b")
	disposition := g.rare("Content-Disposition", "content-disposition", "CONTENT-DISPOSITION", "Content-Disposition ", "Content_Disposition", " Content-Disposition") + g.rare(": ", ":", ":  ", ":\t", " : ") +
		g.rare("form-data", "attachment", "Form-Data", "form-data ", "inline", `"form-data"`) + g.rare("; ", ";", " ; ", ";\t", "; ; ", ", ") +
		g.rare("name=", "Name=", "name =", "name= ", "name*=utf-8''", "name*0=", "n=") + g.rare(`"`+name+`"`, name, "'"+name+"'", `"`+name, name+`"`, `"`+name+`"x`) +
		g.rare("", "; foo", `; name="z"`, `; foo="b"`, ";", " ", `; x="y;name=q"`, "; name*0=z")
	content := g.rare(g.pick("50", "100000", "a b", "grün", "", "x=1&y=2"), "\xff\xfe", "\r\n", "\r", "a\r\nb", "--", "-", "YWJj", "=41", "{}", `{"a":1}`, "\n--X", "\ud7ff")
	if g.IntN(5) == 0 {
		disposition = `Content-Disposition: form-data; name="` + g.pick("file", "file2") + `"; filename` + g.rare(`="`+g.rare("a.txt", "", `a\"b`, "ä.bin", "a;b", "a%22")+`"`, "*=utf-8''%c3%a4", `=a; filename*=utf-8''b`, "*0=a", "=", "*=latin1''a")
	}
	more := g.rare("", "Content-Type: text/plain", "Content-Type: text/plain; charset=utf-8", "Content-Type: text/plain; charset=iso-8859-1", "Content-Type: text/plain; charset=us-ascii",
		"Content-Type: application/json", "Content-Type: multipart/mixed; boundary=Y", "Content-Transfer-Encoding: base64", "Content-Transfer-Encoding: quoted-printable", "Content-Transfer-Encoding: 8bit",
		"Content-Length: 2", "X-A: b", "Content-Disposition: form-data; name=\"second\"", " folded: x", "Content-Type: text/plain; charset=utf-16", "Content-Type: text/plain\r\nContent-Type: text/html")
	switch {
	case more == "":
	case g.IntN(2) == 0:
		disposition += line + more
	default:
		disposition = more + line + disposition
	}
	return disposition + line + line + content
}

// formOf makes a urlencoded form.
func formOf(g *generator) sent {
	kind := g.rare("application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded", "application/x-www-form-urlencoded ", "application/x-www-form-urlencoded;", "application/x-www-form-urlencoded ;",
		"application/x-www-form-urlencoded, text/plain") + g.rare("", "; charset=utf-8", "; charset=UTF-8", "; charset=utf-16", "; charset=utf-7", "; charset=iso-8859-1", "; charset=ascii", `; charset="utf-8"`, "; foo", "; charset=x", "; charset=")
	var b strings.Builder
	for range 1 + g.IntN(5) {
		name := g.pick("amount", "a", "b", "a%5B%5D", "%61", "", "a+b")
		b.WriteString(name + g.rare("=", "", "==", "%3D") + g.rare(g.pick("1", "100000", "x+y", "%C3%A9", "", "a%26b", "%00"), "%FF", "\u00e9", "\xe9", "%", "%zz", "%u0041", "%ED%A0%80", "a;b", "a%3Bb", "+AGE-", "#", "?x", "\"") + g.rare("&", ";", "&&", "&amp;", "&;"))
	}
	return sent{g.damaged(kind, ";", " ", `"`, "=", ","), g.damaged(b.String(), "&", ";", "=", "+", "%", "%26", "%3d", "\r\n", "\x00", "\xff", "\u00e9", " ", "!")}
}

// jsonOf makes a document, sometimes in another encoding.
func jsonOf(g *generator) sent {
	kind := g.rare("application/json", "Application/JSON", "application/vnd.api+json", "application/merge-patch+json", "application/problem+json", "application/x+y+json", "application/json;", "application/json ",
		"application/json-seq", "application/x-ndjson", "text/json", "*/*", "application/*", "application/json, text/plain", "application /json", "image/svg+json") +
		g.rare("", "; charset=utf-8", "; charset=utf-16", "; charset=utf-7", "; charset=latin-1", "; charset=iso-8859-1", "; charset=us-ascii", "; charset=utf-8-sig", "; charset=cp037", "; foo", "; version=2", `; charset="utf-8"`, "; charset=utf-8; charset=utf-16")
	text := g.rare("", " ", "\n", "\ufeff", "\v", "\u00a0") + g.document(3) + g.rare("", "\n", " ", " {}", "\x00", "\n{}", "// c")
	text = g.damaged(text, `"`, ",", ":", "{", "}", "[", "]", `\`, `\u0000`, "\xff", "\u00e9", "\x00", "\xed\xa0\x80", "\t", "\x7f", "1", ".", "-", "e", "!", "NaN", "+")
	switch g.IntN(40) {
	case 0:
		text = encode16(text, 0, "")
	case 1:
		text = encode16(text, 1, "")
	case 2:
		text = encode16(text, 0, "\xff\xfe")
	case 3:
		text = strings.ReplaceAll(encode16(text, 1, ""), "\x00", "\x00\x00")
	}
	return sent{g.damaged(kind, ";", " ", "=", ","), text}
}

func encode16(text string, first int, mark string) string {
	out := mark
	for i := range len(text) {
		pair := [2]byte{}
		pair[first] = text[i]
		out += string(pair[:])
	}
	return out
}

func (g *generator) document(depth int) string {
	if depth == 0 || g.IntN(4) == 0 {
		return g.rare(g.pick("1", "100000", `"x"`, `"grün"`, "null", "true", "1.50", `"\u00e9"`, "-0", "12345678901234567890", `"\ud83d\ude00"`, `""`), `"\ud800"`, `"\ud800\ud800"`, `"\udc00\ud800"`, "NaN", "Infinity", "-Infinity", "1e400", "1e-400", "01", "1.", ".5",
			"+1", "1e5", "1E+2", "-1.5e-3", "tru", "'x'", `"\x41"`, "\"\t\"", `"\/"`, "0x10", "1_000", `"\u00zz"`, "-", "99999999999999999999999999999999999999.5", "0e5")
	}
	var parts []string
	if g.IntN(3) == 0 {
		for range g.IntN(4) {
			parts = append(parts, g.document(depth-1))
		}
		return "[" + strings.Join(parts, g.rare(",", ", ", ",,", " ")) + g.rare("", ",", " ") + "]"
	}
	for range g.IntN(4) {
		parts = append(parts, g.rare(g.pick(`"amount"`, `"a"`, `"b"`), `"\u0061"`, `"\ud800"`, `"\udfff"`, "a", "1", "'a'", `"a\u0000"`, `"A"`)+g.rare(":", " : ", "=", "")+g.document(depth-1))
	}
	return "{" + strings.Join(parts, g.rare(",", " , ", ";")) + g.rare("", ",") + "}"
}

// reader is a running framework.
type reader struct {
	in  io.Writer
	out *bufio.Scanner
}

func startReader(t *testing.T, framework string) *reader {
	t.Helper()
	cmd := exec.Command(python(t), "-B", filepath.Join("testdata", "bodies.py"), framework)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", framework, err, stderr.String())
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 8<<20)
	return &reader{in: in, out: lines}
}

// ask sends bodies and reads as many views, concurrently, because pipes are short.
func (r *reader) ask(t *testing.T, bodies []sent) []view {
	t.Helper()
	written := make(chan error, 1)
	go func() {
		w := bufio.NewWriter(r.in)
		for _, s := range bodies {
			line, _ := json.Marshal(map[string]string{"type": s.kind, "body": base64.StdEncoding.EncodeToString([]byte(s.body))})
			if _, err := w.Write(append(line, '\n')); err != nil {
				break
			}
		}
		written <- w.Flush()
	}()
	views := make([]view, len(bodies))
	for i := range views {
		if !r.out.Scan() {
			t.Fatalf("the framework ended at %s: %v", bodies[i], r.out.Err())
		}
		if err := json.Unmarshal(r.out.Bytes(), &views[i]); err != nil && utf8.Valid(r.out.Bytes()) {
			views[i] = view{JSON: json.RawMessage(strconv.Quote("not JSON: " + r.out.Text()))}
		}
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	return views
}

// python is the interpreter that has the frameworks.
func python(t testing.TB) string {
	t.Helper()
	p, err := sandbox.Frameworks(t.Context(), "..")
	if err != nil {
		t.Fatal(err)
	}
	return p
}
