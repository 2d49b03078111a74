package query_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"gatehouse/envoy/sandbox"
	"gatehouse/query"
)

func TestParse(t *testing.T) {
	for raw, want := range map[string]url.Values{
		"":                  {},
		"&&":                {},
		"a":                 {"a": {""}},
		"a=1&b=2&a=3":       {"a": {"1", "3"}, "b": {"2"}},
		"%74enant=x":        {"tenant": {"x"}},
		"a;b=1;c=2":         {"a;b": {"1;c=2"}},
		"a=%&b%zz=1&%2":     {"a": {"%"}, "b%zz": {"1"}, "%2": {""}},
		"a=%25%37%34":       {"a": {"%74"}},
		"a+b=c+d":           {"a b": {"c d"}},
		"=x&a==":            {"": {"x"}, "a": {"="}},
		"a=%ff&b=%E2%82.":   {"a": {"\uFFFD"}, "b": {"\uFFFD."}},
		"b=%F0%9F%98&c=%c0": {"b": {"\uFFFD"}, "c": {"\uFFFD"}},
	} {
		got, err := query.Parse(raw)
		if err != nil || fmt.Sprint(got.Values) != fmt.Sprint(want) {
			t.Errorf("%q: %v %v, want %v", raw, got.Values, err, want)
		}
		if got.Unclear != nil != strings.ContainsRune(fmt.Sprint(want), utf8.RuneError) {
			t.Errorf("%q: unclear %q", raw, got.Unclear)
		}
	}
	if _, err := query.Parse(strings.Repeat("a&", 10_000)); err == nil {
		t.Error("a query of any number of parameters is read")
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"tenant": "tenant", "Acme Ltd": "Acme%20Ltd", "Acme&debug=1": "Acme%26debug%3D1", "Jürgen": "J%C3%BCrgen", "a+b": "a%2Bb",
		"100%": "100%25", "a#b?c/d": "a%23b%3Fc%2Fd", "": "",
	} {
		if got := query.Escape(in); got != want {
			t.Errorf("Escape(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"Acme%20Ltd": "Acme%20Ltd", "a+b": "a+b", "a&b%": "a%26b%25", "ü": "%C3%BC"} {
		if got := query.EscapeRest(in); got != want {
			t.Errorf("EscapeRest(%q) = %q, want %q", in, got, want)
		}
	}
}

// oracle is a process with the real frameworks in it.
type oracle struct {
	in  *json.Encoder
	out *bufio.Scanner
}

func startOracle(t *testing.T) *oracle {
	t.Helper()
	python, err := sandbox.Frameworks(t.Context(), "..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "oracle.py"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	o := &oracle{json.NewEncoder(in), bufio.NewScanner(out)}
	o.out.Buffer(nil, 1<<20)
	return o
}

// ask gives the parameters as each framework reads them, nil where it fails.
func (o *oracle) ask(t *testing.T, raw string) (answer map[string][][2]string) {
	t.Helper()
	latin := make([]rune, len(raw))
	for i := range len(raw) {
		latin[i] = rune(raw[i])
	}
	if err := o.in.Encode(string(latin)); err != nil {
		t.Fatal(err)
	}
	if !o.out.Scan() {
		t.Fatalf("the frameworks gave no answer to %q: %v", raw, o.out.Err())
	}
	if err := json.Unmarshal(o.out.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

var tokens = []string{"a", "b", "tenant", "%74enant", "t%65nan%74", "ten%2561nt", "tenant[]", "access_token", "access%5ftoken", "access%5Ftoken",
	"&", "&", "&", "&&", "=", "=", "==", ";", "%", "%%", "%2", "%zz", "%u0041", "+", "%20", "%2B", "%26", "%3D", "%3b", "%00", "%0a", "%ff", "%C3%BC", "%C3", "%bc",
	"%E2%82%AC", "%E2%82", "%F0%9F%98%80", "%F0%9F%98", "%ED%A0%80", "%c0%ae", "%F4%90%80%80", "\xff", "\xc3\xbc", "\xc3", "\u00a0", "1", "x y", "\"", "#", "?", "/", "[", "'", "\\", "."}

func generate(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(12) {
		b.WriteString(tokens[r.IntN(len(tokens))])
	}
	return b.String()
}

var names = []string{"a", "b", "tenant", "tenant[]", "access_token", "ten%61nt", "\uFFFD", "%FF", "ü", "Ã¼", "a b", "a ", " ", "", "%", "%zz", "a;", "a;b", "%C3"}

// The applications' own parsers say what is in a query, and we must read the same: of each parameter, and of each name that a policy sets
// or removes.
func TestFrameworksReadTheSame(t *testing.T) {
	o := startOracle(t)
	r := rand.New(rand.NewPCG(1, 2))
	compared, spelled := 0, 0
	for range rounds {
		raw := generate(r)
		ours, err := query.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		var sent []string
		for name := range query.Pairs(raw) {
			sent = append(sent, name)
		}
		answers := o.ask(t, raw)
		read := make([][]string, len(sent)) // by all frameworks
		for framework, pairs := range answers {
			if pairs == nil {
				if ours.Unclear == nil {
					t.Errorf("%q: %s fails, and we see nothing unclear", raw, framework)
				}
				continue
			}
			for name, values := range byName(pairs) {
				if !slices.Contains(ours.Unclear, name) && len(ours.Unclear) == 0 && !slices.Equal(ours.Values[name], values) {
					t.Errorf("%q: %s has %q = %q, we have %q", raw, framework, name, values, ours.Values[name])
				}
				compared++
			}
			if !strings.HasPrefix(framework, "django") { // which groups them by name
				for i, pair := range pairs {
					read[i] = append(read[i], pair[0])
				}
			}
			if framework == "django" && isASCII(raw) && fmt.Sprint(byName(pairs)) != fmt.Sprint(map[string][]string(ours.Values)) {
				t.Errorf("%q: django has %q, we have %q", raw, pairs, ours.Values)
			}
		}
		for i, name := range sent {
			for _, candidate := range append(names, read[i]...) {
				if slices.Contains(read[i], candidate) {
					spelled++
					if !query.Spells(name, candidate) {
						t.Errorf("%q: %q is read as %q, and does not spell it", raw, name, candidate)
					}
				} else if len(read[i]) == 2 && isASCII(name) && query.Spells(name, candidate) && !strings.Contains(candidate, "\uFFFD") {
					t.Errorf("%q: nobody reads %q as %q (%q)", raw, name, candidate, read[i])
				}
			}
		}
		if t.Failed() && compared > 1000 {
			break
		}
	}
	t.Logf("%d names compared, %d spellings", compared, spelled)
	if compared < rounds || spelled < rounds {
		t.Errorf("only %d names and %d spellings were compared in %d queries", compared, spelled, rounds)
	}
}

// What we write is read as what was meant, by all of them.
func TestFrameworksReadWhatIsEscaped(t *testing.T) {
	o := startOracle(t)
	r := rand.New(rand.NewPCG(3, 4))
	for range rounds / 10 {
		name, value := strings.ToValidUTF8(generate(r), "ß"), strings.ToValidUTF8(generate(r), "ß")
		for framework, pairs := range o.ask(t, query.Escape(name)+"="+query.Escape(value)) {
			if len(pairs) != 1 || pairs[0] != [2]string{name, value} {
				t.Errorf("%s reads %q, want %q = %q", framework, pairs, name, value)
			}
		}
	}
}

func byName(pairs [][2]string) map[string][]string {
	out := map[string][]string{}
	for _, p := range pairs {
		out[p[0]] = append(out[p[0]], p[1])
	}
	return out
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

func FuzzParse(f *testing.F) {
	for _, s := range tokens {
		f.Add(s + "=" + s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		v, err := query.Parse(raw)
		if err != nil {
			return
		}
		for name := range query.Pairs(raw) {
			decoded, _ := query.Decode(name)
			if _, there := v.Values[decoded]; !there || !query.Spells(name, decoded) || !utf8.ValidString(decoded) {
				t.Errorf("%q: %q", raw, name)
			}
		}
		if again, agreed := query.Decode(query.Escape(raw)); utf8.ValidString(raw) && (again != raw || !agreed) {
			t.Errorf("%q is escaped to what reads %q", raw, again)
		}
	})
}
