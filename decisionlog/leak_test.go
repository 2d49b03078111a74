package decisionlog_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gatehouse/decisionlog"
	"gatehouse/input"
)

// carriers put a secret of a kind where its name or its shape tells what it is. The path has %s in a query's value or a segment.
var carriers = map[string]func(e *decisionlog.Entry, secret string){
	"bearer token":  func(e *decisionlog.Entry, s string) { header(e, "authorization", "Bearer "+s) },
	"odd scheme":    func(e *decisionlog.Entry, s string) { header(e, "Authorization", "bEaReR   "+s) },
	"no scheme":     func(e *decisionlog.Entry, s string) { header(e, "authorization", s) },
	"api key":       func(e *decisionlog.Entry, s string) { header(e, "X_Api_Key", s) },
	"key of others": func(e *decisionlog.Entry, s string) { header(e, "x-partner-token", s) },
	"password": func(e *decisionlog.Entry, s string) {
		header(e, "authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("ann:"+s)))
	},
	"cookie":      func(e *decisionlog.Entry, s string) { header(e, "cookie", "lang=en; access_token="+s+"; theme=dark") },
	"chunks":      func(e *decisionlog.Entry, s string) { header(e, "cookie", "access_token_0="+s) },
	"query":       func(e *decisionlog.Entry, s string) { e.Path += "&access_token=" + url.QueryEscape(s) },
	"spelled":     func(e *decisionlog.Entry, s string) { e.Path += "&acce%73s%5Ftoken=" + url.QueryEscape(s) },
	"form's name": func(e *decisionlog.Entry, s string) { e.Path += "&user[password]=" + url.QueryEscape(s) },
}

func header(e *decisionlog.Entry, name, value string) {
	e.Input.Headers = append(e.Input.Headers, decisionlog.Header{Name: name, Value: value})
}

// places are where policies, clients and errors put a secret once more.
var places = map[string]func(e *decisionlog.Entry, text string){
	"error":  func(e *decisionlog.Entry, s string) { e.Error = "evaluating failed: " + s + " is not valid" },
	"reason": func(e *decisionlog.Entry, s string) { result(e, map[string]any{"reason": "no " + s}) },
	"body":   func(e *decisionlog.Entry, s string) { result(e, map[string]any{"body": `{"x":"` + s + `"}`}) },
	"metadata": func(e *decisionlog.Entry, s string) {
		result(e, map[string]any{"dynamic_metadata": map[string]any{"a": []any{s}}})
	},
	"a name": func(e *decisionlog.Entry, s string) {
		result(e, map[string]any{"dynamic_metadata": map[string]any{s: 1}})
	},
	"a header": func(e *decisionlog.Entry, s string) { result(e, map[string]any{"headers": map[string]any{"x-a": s}}) },
	"an action": func(e *decisionlog.Entry, s string) {
		result(e, map[string]any{"headers": []any{map[string]any{"x-a": map[string]any{"value": []any{s}, "append_action": "ADD"}}}})
	},
	"location": func(e *decisionlog.Entry, s string) {
		result(e, map[string]any{"headers": map[string]any{"location": "https://a.example/x?y=" + s + "#z=" + s}})
	},
	"to client": func(e *decisionlog.Entry, s string) {
		result(e, map[string]any{"response_headers_to_add": []any{map[string]any{"x-a": []any{s}}}})
	},
	"a query": func(e *decisionlog.Entry, s string) {
		result(e, map[string]any{"query_parameters_to_set": map[string]any{"x": []any{s}}})
	},
	"text": func(e *decisionlog.Entry, s string) { e.Result = freshly{s} },
	"input": func(e *decisionlog.Entry, s string) {
		e.Input.ParsedBody = freshly{map[string]any{"note": []any{map[string]any{"x": "is " + s}}}}
	},
	"headers": func(e *decisionlog.Entry, s string) { header(e, "x-note", "is "+s) },
	"referer": func(e *decisionlog.Entry, s string) {
		header(e, "referer", "https://a.example/"+url.PathEscape(s)+"?x="+url.QueryEscape(s))
	},
	"forwarded": func(e *decisionlog.Entry, s string) { header(e, "x-forwarded-url", "/x/"+url.PathEscape(s)) },
	"the id":    func(e *decisionlog.Entry, s string) { e.Input.ID = s },
	"proxy": func(e *decisionlog.Entry, s string) {
		e.Input.Metadata = map[string]any{"filterMetadata": map[string]any{"x": []any{s}}}
	},
	"a route": func(e *decisionlog.Entry, s string) { e.Input.RouteMetadata = map[string]any{"x": s} },
	"envoy":   func(e *decisionlog.Entry, s string) { e.Input.Extensions = map[string]string{"x": s} },
	"claims": func(e *decisionlog.Entry, s string) {
		e.Identity.Claims = map[string]any{"note": map[string]any{"x": s}}
	},
	"path":      func(e *decisionlog.Entry, s string) { e.Path = "/x/" + url.PathEscape(s) + e.Path; e.AddParam("p", s) },
	"path, odd": func(e *decisionlog.Entry, s string) { e.Path = "/x/" + percent(s) + e.Path },
	"parameter": func(e *decisionlog.Entry, s string) { e.Path += "&note=" + percent(s) },
}

type freshly struct{ v any }

func (d freshly) JSON() (any, error) { return copyJSON(d.v), nil }

func copyJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, one := range v {
			out[name] = copyJSON(one)
		}
		return out
	case []any:
		out := []any{}
		for _, one := range v {
			out = append(out, copyJSON(one))
		}
		return out
	}
	return v
}

func result(e *decisionlog.Entry, v map[string]any) { e.Result = freshly{v} }

// percent encodes every byte.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02x", s[i])
	}
	return b.String()
}

// texts are spellings of a secret.
var texts = map[string]func(s string) string{
	"as it is":   func(s string) string { return s },
	"quoted":     strconv.Quote,
	"in JSON":    func(s string) string { b, _ := json.Marshal(map[string]string{"v": s}); return string(b) },
	"escaped":    url.QueryEscape,
	"percent":    percent,
	"base64":     func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64 in":  func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte("{\"a\":\"" + s + "\"}")) },
	"base64, 1":  func(s string) string { return base64.StdEncoding.EncodeToString([]byte("x" + s + ":y")) },
	"within":     func(s string) string { return "pre" + s + "fix" },
	"in a query": func(s string) string { return "/a?b=" + url.QueryEscape(s) + "&c" },
}

var plantedSecrets = []string{"k3y-hunter2-Zq", "S3cr3t+/with==", "pä ss\"w%rd/1", `back\slash&amp;9`, "0123456789abcdef0123456789abcdef", "eyJhbGciOiJkaXIifQ..c29tZS1pdg.Y2lwaGVydGV4dA.dGFn"}

// TestNoSecretLeaves plants each secret where it belongs, and in each spelling where it does not: no line and no byte of a spool has it.
func TestNoSecretLeaves(t *testing.T) {
	for name, carry := range carriers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var entries []*decisionlog.Entry
			var what []string
			for place, put := range places {
				for spelling, spell := range texts {
					secret := plantedSecrets[rand.IntN(len(plantedSecrets))]
					if strings.ContainsAny(secret, " ;\"") && (strings.HasPrefix(name, "cook") || name == "chunks") {
						secret = plantedSecrets[0]
					}
					e := &decisionlog.Entry{DecisionID: fmt.Sprint("d-", len(entries)), Asked: rand.IntN(4) > 0, Outcome: "deny", Reason: "denied",
						Input: decisionlog.Input{Request: input.Request{Path: "/a?b=1"}}}
					carry(e, secret)
					put(e, spell(secret))
					entries, what = append(entries, e), append(what, fmt.Sprintf("%q in %s, %s", secret, place, spelling))
				}
			}
			dir := t.TempDir()
			cfg := decisionlog.Config{Dir: filepath.Join(dir, "spool"), Claims: []string{"note"}, Redact: decisionlog.Redact{Cookies: []string{"access_token"}}}
			cfg.File = filepath.Join(dir, "log")
			l := open(t, cfg)
			for _, e := range entries {
				add(t, l, e)
			}
			finish(t, run(l))
			lines, err := os.ReadFile(cfg.File)
			if err != nil || bytes.Count(lines, []byte("\n")) != len(what) {
				t.Fatalf("%d lines of %d, %v", bytes.Count(lines, []byte("\n")), len(what), err)
			}
			for i, line := range strings.SplitAfter(string(lines), "\n") {
				if i < len(what) {
					findSecrets(t, what[i], line)
				}
			}
			segments, _ := filepath.Glob(filepath.Join(dir, "spool", "*.seg"))
			for _, segment := range segments {
				b, err := os.ReadFile(segment)
				if err != nil {
					t.Fatal(err)
				}
				findSecrets(t, segment, strings.TrimRight(string(b), "\x00")) // most of it was never written to
			}
		})
	}
}

// findSecrets looks for any planted secret, however it is escaped.
func findSecrets(t *testing.T, what, text string) {
	t.Helper()
	once := unescapeAll(text)
	twice := unescapeAll(once)
	for _, secret := range plantedSecrets {
		encoded := base64.StdEncoding.EncodeToString([]byte(secret))
		for _, plain := range []string{text, once, twice} {
			for _, s := range []string{secret, encoded[:len(encoded)-4], base64.StdEncoding.EncodeToString([]byte("x" + secret))[2:10]} {
				if strings.Contains(plain, s) {
					t.Errorf("%s: %.600s", what, text)
					return
				}
			}
		}
	}
}

func unescapeAll(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '%' && i+2 < len(s):
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
			b.WriteByte(s[i])
		case s[i] == '\\' && i+1 < len(s):
			i++
			if s[i] == 'u' && i+4 < len(s) {
				if c, err := strconv.ParseUint(s[i+1:i+5], 16, 32); err == nil {
					b.WriteRune(rune(c))
					i += 4
					continue
				}
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// TestShapes has texts that hold secrets which nothing else of the request tells, and texts that only look so.
func TestShapes(t *testing.T) {
	const s = "s3cret-value-1"
	for _, text := range []string{"Bearer " + s, "a bearer " + s + " came", "x=Bearer+" + s, "Bearer%20" + s, "Basic YW5uOnMzY3JldC12YWx1ZS0x", "proxy said: Basic YW5uOnMzY3JldC12YWx1ZS0x!",
		`{"password":"` + s + `"}`, `{\"password\": \"` + s + `\"}`, `{"user":{"new_password" : "` + s + `"}}`, "password=" + s, "a&user[password]=" + s + "&b", "https://ann:" + s + "@example.com/x",
		"https://a.example/cb?code=" + s + "&state=1", "https://a.example/#access_token=" + s, "redirect=https%3A%2F%2Fa.example%2F%3Fcode%3D" + s, "Authorization: Bearer " + s,
		"cookie: a=1; sid=" + s, "X-Api-Key: " + s + "\nb: c", "/x;jsessionid=" + s + "/y", "githubToken: '" + s + "'", "client-secret=" + s, "eyJhbGciOiJkaXIifQ..aXY.czNjcmV0LXZhbHVlLTE.dGFn",
		"eyAiYWxnIjogIm5vbmUifQ.czNjcmV0LXZhbHVlLTE.", "-----BEGIN RSA PRIVATE KEY-----\n" + s + "\n-----END RSA PRIVATE KEY-----", "x%2541uthorization%253A%2520Bearer%2520" + s} {
		for place, put := range places {
			if place == "path" || place == "path, odd" || place == "referer" || place == "forwarded" || place == "a name" || place == "location" && strings.Contains(text, "; ") {
				continue
			}
			e := &decisionlog.Entry{DecisionID: "d", Asked: true, Input: decisionlog.Input{Request: input.Request{Path: "/a?b=1"}}}
			put(e, text)
			line := write(t, decisionlog.Config{Claims: []string{"note"}}, e)
			for _, part := range []string{s, "czNjcmV0LXZhbHVlLTE", "YW5uOnMzY3JldC12YWx1ZS0x", percent(s)} {
				if strings.Contains(line, part) {
					t.Errorf("%s in %s: %s", text, place, line)
				}
			}
		}
	}
	for _, text := range []string{"the basic plan", "the bearer token is missing", "unexpected token: x", "bad_credential: bad credential: api key is cut off", "code=200", "eyewitness.news.example.com", "12:30:00", "http://example.com:8080/a@b", "q=0.9,*/*;q=0.8",
		"a%20b", `W/"abc"`, "max-age=0", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "By=spiffe://a/b;Hash=1234;Subject=\"CN=a\"", "newline.newly.news"} {
		e := &decisionlog.Entry{DecisionID: "d", Asked: true, Input: decisionlog.Input{Request: input.Request{Path: "/a"}}}
		header(e, "x-note", text)
		if line := parse(t, write(t, decisionlog.Config{}, e)); line["masked"] != nil {
			t.Errorf("%s: masked %v", text, line["masked"])
		}
	}
}

// TestIdentityStays has a client that sends as a cookie what says who it is and where it went: the log says that all the same.
func TestIdentityStays(t *testing.T) {
	e := &decisionlog.Entry{DecisionID: "d", Asked: true, Route: "orders.show",
		Input: decisionlog.Input{Request: input.Request{Path: "/orders/ord-17-secret9"},
			Identity: decisionlog.Identity{Subject: "user-4711-abc"}}}
	header(e, "cookie", "a=ord-17-secret9; b=user-4711-abc")
	got := parse(t, write(t, decisionlog.Config{}, e))
	if at(got, "request/path") != "/orders/ord-17-secret9" || at(got, "identity/subject") != "user-4711-abc" {
		t.Error(got)
	}
}

// FuzzKnown puts a credential into an error in any surroundings.
func FuzzKnown(f *testing.F) {
	f.Add("k3y-hunter2-Zq", "a", "b")
	f.Add("12345678", "%", "\\")
	f.Add("aaaaaaaaaa", "aaa", "aaaa")
	f.Fuzz(func(t *testing.T, secret, before, after string) {
		if len(secret) < 8 || strings.Trim(secret, " \t\r\n\"") != secret || strings.Contains(secret, " ") || strings.ToValidUTF8(secret, "") != secret || strings.Contains("[redacted]", secret) {
			return
		}
		e := &decisionlog.Entry{DecisionID: "d", Asked: true, Error: before + secret + after}
		header(e, "x-api-key", secret)
		got := parse(t, write(t, decisionlog.Config{}, e))
		if message, _ := at(got, "error/message").(string); strings.Contains(message, secret) && !strings.Contains(before+after, secret[1:]) && !strings.Contains(before+after, secret[:len(secret)-1]) {
			t.Errorf("%q is in %q", secret, message)
		}
	})
}
