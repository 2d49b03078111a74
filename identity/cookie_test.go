package identity_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
	"gatehouse/identity"
)

// withCookie takes issuer A's tokens from a cookie alone.
func withCookie(t testing.TB, place identity.TokenSource) (*identity.Verifier, *identity.Keys) {
	t.Helper()
	v := newVerifier(t, identity.Config{Clock: func() time.Time { return noon }, Issuers: []identity.Issuer{{Issuer: issuerA, Audiences: []string{"orders"},
		Keys: identity.KeySource{File: temp(t, keysOfA())}, From: []identity.TokenSource{place}}}})
	keys, err := v.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v, keys
}

// told is what the verifier says about Cookie lines: the subject, "" for nobody, or "bad".
func told(t testing.TB, v *identity.Verifier, keys *identity.Keys, lines ...string) string {
	t.Helper()
	id, err := v.Identify(t.Context(), keys, identity.Request{Header: headers{"cookie": lines}.get})
	switch {
	case errors.Is(err, identity.ErrBadCredential):
		return "bad"
	case err != nil:
		t.Fatalf("%q: %v", lines, err)
	}
	return id.Subject
}

// G and F stand for two tokens, G0 and G1 for the halves of one.
func cookies(text, g, f string) string {
	half := len(g) / 2
	return strings.NewReplacer("G0", g[:half], "G1", g[half:], "G", g, "F", f).Replace(text)
}

func TestCookieSpellings(t *testing.T) {
	g, f := good(object{"sub": "vera"}), good(object{"sub": "forged"})
	plain, plainKeys := withCookie(t, identity.TokenSource{Cookie: "token"})
	chunked, chunkedKeys := withCookie(t, identity.TokenSource{Cookie: "token", Chunked: true})
	for sent, want := range map[string][2]string{ // with one cookie, with chunks
		"":                              {"", ""},
		"token=G":                       {"vera", "vera"},
		"a=1; token=G; b=2":             {"vera", "vera"},
		"a=1;token=G;b=2":               {"vera", "vera"},
		"token =G":                      {"vera", "vera"},
		"token\t= G":                    {"vera", "vera"},
		"a b c; token=G; d=\"x; y\"":    {"vera", "vera"},
		"token =F; token=G":             {"bad", "bad"},
		"token\t=F; token=G":            {"bad", "bad"},
		"token=G; token =F":             {"bad", "bad"},
		"token=G; token":                {"bad", "bad"},
		"token; token=G":                {"bad", "bad"},
		"token":                         {"", ""},
		"token=":                        {"", ""},
		"token\u00a0=F; token=G":        {"bad", "bad"},
		"token\u0085=F":                 {"bad", "bad"},
		"\u2003token=F; token=G":        {"bad", "bad"},
		"token\x0b=F; token=G":          {"bad", "bad"},
		"token\x1c=F; token=G":          {"bad", "bad"},
		"token!=F; token=G":             {"bad", "bad"}, // Envoy's spelling of a byte that is not UTF-8
		"!token=F":                      {"bad", "bad"},
		"token\uFFFD=F; token=G":        {"bad", "bad"},
		"a=1,token=F; token=G":          {"bad", "bad"}, // two lines that Envoy joined
		"token=G; b=1, token =F":        {"bad", "bad"},
		"token=G,token=F":               {"bad", "bad"},
		"a=\"; token=F; b\"; token=G":   {"bad", "bad"},
		"a=\"; token=G; b\"":            {"bad", "bad"},
		"a=\"; token=G":                 {"vera", "vera"},
		"a=\"x\\\"; token=G; b=\"":      {"bad", "bad"},
		"token=\"G\"":                   {"bad", "bad"},
		"token=\"G":                     {"bad", "bad"},
		"token=G x":                     {"bad", "bad"},
		"token=\\107":                   {"bad", "bad"},
		"\"token\"=F; token=G":          {"vera", "vera"},
		"Token=F; tokens=F; xtoken=F":   {"", ""},
		"=token=F; token=G":             {"vera", "vera"},
		"$Version=1; token=G; $Path=/":  {"vera", "vera"},
		"token_0=G":                     {"", "vera"},
		"token_0=G0; token_1=G1":        {"", "vera"},
		"token_1=G1; a=1; token_0=G0":   {"", "vera"},
		"token_0=G0; token_1=G1;":       {"", "vera"},
		"token_0=G; token_1=":           {"", "vera"},
		"token_0=; token_1=":            {"", ""},
		"token_0=; token_1=G":           {"", "bad"},
		"token_1=G":                     {"", "bad"},
		"token_0=G0; token_2=G1":        {"", "bad"},
		"token_0=G0; token_0=G0":        {"", "bad"},
		"token_0=G0; token_0 =G0":       {"", "bad"},
		"token_0=G; token=G":            {"vera", "bad"},
		"token_0=G0; token_01=G1":       {"", "bad"},
		"token_0=G; token_10=F":         {"", "bad"},
		"token_0=G; token_x=F; token_=": {"", "vera"},
		"token_0!=F; token_0=G":         {"", "bad"},
	} {
		sent = cookies(sent, g, f)
		if got := told(t, plain, plainKeys, sent); got != want[0] {
			t.Errorf("%.60q: %q, want %q", sent, got, want[0])
		}
		if got := told(t, chunked, chunkedKeys, sent); got != want[1] {
			t.Errorf("%.60q in chunks: %q, want %q", sent, got, want[1])
		}
	}
}

// cookieOracle is a process with the real frameworks in it.
type cookieOracle struct {
	in  *json.Encoder
	out *bufio.Scanner
}

func startCookieOracle(t *testing.T, name string) *cookieOracle {
	t.Helper()
	python, err := sandbox.Frameworks(t.Context(), "..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "cookies.py"), name)
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
	o := &cookieOracle{json.NewEncoder(in), bufio.NewScanner(out)}
	o.out.Buffer(nil, 1<<20)
	return o
}

// ask gives the cookies of the place's names as each framework reads them, nil where it fails.
func (o *cookieOracle) ask(t *testing.T, lines []string) (answer map[string]map[string]string) {
	t.Helper()
	latin := make([]string, len(lines))
	for i, line := range lines {
		var b strings.Builder
		for j := range len(line) {
			b.WriteRune(rune(line[j]))
		}
		latin[i] = b.String()
	}
	if err := o.in.Encode(latin); err != nil {
		t.Fatal(err)
	}
	if !o.out.Scan() {
		t.Fatalf("the frameworks gave no answer to %q: %v", lines, o.out.Err())
	}
	if err := json.Unmarshal(o.out.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// readToken is the token that an application takes out of its cookies, with chunks by counting up to the first that is missing.
func readToken(cookies map[string]string, chunked bool) string {
	if value := cookies["token"]; value != "" || !chunked {
		return value
	}
	value := ""
	for i := 0; ; i++ {
		chunk := cookies[fmt.Sprintf("token_%d", i)]
		if chunk == "" {
			return value
		}
		value += chunk
	}
}

var cookieTokens = []string{"token", "token", "token", "token_0", "token_1", "token_2", "token_01", "token_10", "token_", "Token", "xtoken", "a", "b",
	"=", "=", "=", "=", ";", ";", ";", "; ", "; ", "G", "G", "F", "G0", "G1", "1", " ", "\t", "  ", ",", "\"", "\"", "\\", "\\\"", "\\107", "\x0b", "\x0c", "\x1c", "\x1f",
	"\x85", "\xa0", "\xc2\xa0", "\xc2\x85", "\xe2\x80\x83", "\xe3\x80\x80", "\xff", "!", "$Version", "$Path=/", "token=G", "token=F", "token =F", "token_0=G0; token_1=G1",
	"a=\"x; y\"", "token=\"G\"", "=G", "=F"}

// sanitized is what Envoy makes of a header's value in a CheckRequest.
func sanitized(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\uFFFD' {
			return '!'
		}
		return r
	}, s)
}

// Whatever a client makes of its Cookie header: where we say who calls, Flask, Starlette and Django read the very token that we verified,
// and where we see nobody they see no token either. It does not matter whether Envoy shows us the bytes or what it makes of them.
func TestFrameworksReadTheSameCookie(t *testing.T) {
	o := startCookieOracle(t, "token")
	r := rand.New(rand.NewPCG(5, 6))
	g, f := good(object{"sub": "vera"}), good(object{"sub": "forged"})
	verifiers := map[bool]*identity.Verifier{}
	keys := map[bool]*identity.Keys{}
	for _, chunked := range []bool{false, true} {
		verifiers[chunked], keys[chunked] = withCookie(t, identity.TokenSource{Cookie: "token", Chunked: chunked})
	}
	count := map[string]int{}
	for range cookieRounds {
		var b strings.Builder
		for range 1 + r.IntN(14) {
			b.WriteString(cookieTokens[r.IntN(len(cookieTokens))])
		}
		if r.IntN(2) == 0 {
			b.WriteString("; token=G")
		}
		lines := []string{cookies(b.String(), g, f)}
		if r.IntN(8) == 0 {
			lines = append(lines, cookies("token=F", g, f))
		}
		answers := o.ask(t, lines)
		for _, chunked := range []bool{false, true} {
			agreed, some := map[string]bool{}, false
			for framework, cookies := range answers {
				if cookies != nil && (len(lines) == 1 || !strings.Contains(framework, "joined") && framework != "django-asgi") {
					agreed[readToken(cookies, chunked)], some = true, true
				}
			}
			for _, shown := range []func(string) string{func(s string) string { return s }, func(s string) string { return strings.ToValidUTF8(s, "!") },
				func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }, func(s string) string { return sanitized(strings.ToValidUTF8(s, "\uFFFD")) }} {
				var sent []string
				for _, line := range lines {
					sent = append(sent, shown(line))
				}
				subject := told(t, verifiers[chunked], keys[chunked], sent...)
				count[subject]++
				want := map[string]string{"vera": g, "forged": f, "": ""}[subject]
				if subject != "bad" && some && (len(agreed) != 1 || !agreed[want]) {
					t.Errorf("%q, chunked %v: we see %q, they read %.150q", b.String(), chunked, subject, fmt.Sprint(answers))
				}
			}
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%d headers: %v", cookieRounds, count)
	if count["vera"] < cookieRounds/50 || count["bad"] < cookieRounds/50 || count[""] < cookieRounds/50 {
		t.Errorf("the headers say little: %v", count)
	}
}
