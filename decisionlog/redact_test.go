package decisionlog_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/decisionlog"
	"gatehouse/input"
)

const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"

// asked is an entry whose policy was asked about a request with these header lines.
func asked(path string, headers ...string) *decisionlog.Entry {
	e := &decisionlog.Entry{Asked: true, Input: decisionlog.Input{Request: input.Request{Path: path}}}
	for i := 0; i < len(headers); i += 2 {
		e.Input.Headers = append(e.Input.Headers, decisionlog.Header{Name: headers[i], Value: headers[i+1]})
	}
	return e
}

// with changes an entry's input.
func with(e *decisionlog.Entry, change func(in *decisionlog.Input)) *decisionlog.Entry {
	change(&e.Input)
	return e
}

// TestRedactOnly records the values of some headers, and of the others that they were there.
func TestRedactOnly(t *testing.T) {
	const at = "/input/attributes/request/http/headers/"
	for name, tt := range map[string]struct {
		only        []string
		out, masked string
	}{
		"all":       {nil, `{":path":"/","X_Tenant":"t1","accept":"*/*","cookie":"[redacted]"}`, at + "cookie"},
		"some":      {[]string{"x-tenant", "Cookie"}, `{":path":"/","X_Tenant":"t1","accept":"[redacted]","cookie":"[redacted]"}`, at + "accept " + at + "cookie"},
		"no header": {[]string{}, `{":path":"/","X_Tenant":"[redacted]","accept":"[redacted]","cookie":"[redacted]"}`, at + "X_Tenant " + at + "accept " + at + "cookie"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := decisionlog.Config{Redact: decisionlog.Redact{Only: tt.only}}
			line := write(t, cfg, asked("", ":path", "/", "X_Tenant", "t1", "accept", "*/*", "cookie", "s3cret"))
			compare(t, line, "input.attributes.request.http.headers", tt.out, "", tt.masked)
			input := map[string]any{"attributes": map[string]any{"request": map[string]any{"http": map[string]any{"headers": map[string]any{"accept": "image/webp"}}}}}
			if _, texts := cfg.Redact.Secrets(input); (len(texts) == 1) != (tt.only != nil) {
				t.Errorf("an explanation must not show %q", texts)
			}
		})
	}
}

func TestRedactInput(t *testing.T) {
	const http, at = "attributes.request.http", "/input/attributes/request/http/"
	const path, parsed = "/request/path " + at + "path", " /input/parsed_query/"
	body := func(text string) *decisionlog.Entry {
		return with(asked("/"), func(in *decisionlog.Input) { in.ParsedBody = doc(text) })
	}
	claims := asked("/")
	claims.Identity = decisionlog.Identity{Subject: "ann", Claims: map[string]any{"email": "s3cret"}}
	params := asked("/verify/" + jwt)
	params.AddParam("token", jwt)
	params.Input.Matched = true
	for _, tt := range []struct {
		name           string
		entry          *decisionlog.Entry
		member, out    string
		erased, masked string
	}{
		{"nothing secret", asked("/a?b=1&c", "accept", "*/*", "x-code", "1"), http, `{"headers":{"accept":"*/*","x-code":"1"},"path":"/a?b=1&c"}`, "", ""},
		{"authorization", asked("", "authorization", "Bearer s3cret"), http, `{"headers":{"authorization":"[redacted]"}}`, "", at + "headers/authorization"},
		{"header by any spelling", asked("", "X_Api_Key", "s3cret", "Cookie", "s3cret", "Cookie", "s3cret"), http, `{"headers":{"X_Api_Key":"[redacted]","Cookie":"[redacted]"}}`, "", at + "headers/X_Api_Key " + at + "headers/Cookie"},
		{"header from the configuration", asked("", "x-session~/", "s3cret"), http, `{"headers":{"x-session~/":"[redacted]"}}`, "", at + "headers/x-session~0~1"},
		{"credentials in an unlisted header", asked("", "x-a", "bearer s3cret", "x-b", "Basic s3cret", "x-c", "t="+jwt+";v=1"), http, `{"headers":{"x-a":"[redacted]","x-b":"[redacted]","x-c":"t=[redacted];v=1"}}`, "", at + "headers/x-a " + at + "headers/x-b " + at + "headers/x-c"},
		{"header map", with(asked("", "Authorization", "s3cret", ":path", "/?token=s3cret", "accept", "*/*"), func(in *decisionlog.Input) { in.RawHeader = true }), http + ".headerMap",
			`{"headers":[{"key":"Authorization","rawValue":"[redacted]"},{"key":":path","rawValue":"Lz90b2tlbj1bcmVkYWN0ZWRd"},{"key":"accept","rawValue":"Ki8q"}]}`,
			"", at + "headers/Authorization " + at + "headerMap/headers/0/rawValue " + at + "headers/:path " + at + "headerMap/headers/1/rawValue"},
		{"path", asked("/a?x=1&access_token=s3cret&y=%20"), http, `{"path":"/a?x=1&access_token=[redacted]&y=%20"}`, "", path + parsed + "access_token"},
		{"escaped and spelled otherwise", asked("/a?access%5Ftoken=s3cret&Api-Key=s3cret&token[]=s3cret&accessToken=s3cret"), http, `{"path":"/a?access%5Ftoken=[redacted]&Api-Key=[redacted]&token[]=[redacted]&accessToken=[redacted]"}`, "",
			path + parsed + "Api-Key" + parsed + "accessToken" + parsed + "access_token" + parsed + "token[]"},
		{"parameter from the configuration", asked("/a?ticket=s3cret"), http, `{"path":"/a?ticket=[redacted]"}`, "", path + parsed + "ticket"},
		{"code and fragment", with(asked("/cb?code=s3cret"), func(in *decisionlog.Input) { in.Query, in.Fragment = "code=s3cret", "token=s3cret" }), http, `{"path":"/cb?code=[redacted]","query":"code=[redacted]","fragment":"token=[redacted]"}`, "",
			"/request/path " + at + "query " + at + "fragment " + at + "path" + parsed + "code"},
		{"urls in headers", asked("", ":path", "/?token=s3cret", "referer", "https://x/?a=1&code=s3cret"), http, `{"headers":{":path":"/?token=[redacted]","referer":"https://x/?a=1&code=[redacted]"}}`, "", at + "headers/:path " + at + "headers/referer"},
		{"a JWT as a segment", asked("/verify/" + jwt), "parsed_path", `["verify","[redacted]"]`, "", path + " /input/parsed_path/1"},
		{"an escaped JWT as a segment", asked("/" + strings.ReplaceAll(jwt, ".", "%2e")), "parsed_path", `["[redacted]"]`, "", path + " /input/parsed_path/0"},
		{"a JWT as a parameter", params, "route", `{"params":{"token":"[redacted]"}}`, "", "/request/path /parameters/token " + at + "path /input/route/params/token /input/resource/token /input/parsed_path/1"},
		{"parsed query", asked("/?token=s3cret&a=1&a=" + jwt), "parsed_query", `{"token":"[redacted]","a":["1","[redacted]"]}`, "", path + parsed + "a/1" + parsed + "token"},
		{"body", body(`{"user":{"Password":"s3cret","name":"ann"},"list":[{"client_secret":{"v":"s3cret"}}],"code":"de"}`), "parsed_body", `{"user":{"Password":"[redacted]","name":"ann"},"list":[{"client_secret":"[redacted]"}],"code":"de"}`, "", "/input/parsed_body/list/0/client_secret /input/parsed_body/user/Password"},
		{"body that is a string", body(`"` + jwt + `"`), "parsed_body", `"[redacted]"`, "", "/input/parsed_body"},
		{"body", with(asked(""), func(in *decisionlog.Input) { in.HasBody = true }), http, `null`, at + "body", ""},
		{"body in bytes", with(asked(""), func(in *decisionlog.Input) { in.HasBody, in.RawBody = true, true }), http, `null`, at + "rawBody", ""},
		{"claims", claims, "identity", `{"subject":"ann","authenticated":false,"roles":[],"groups":[],"scopes":[]}`, "/input/identity/claims", ""},
		{"jwt_authn", with(asked(""), func(in *decisionlog.Input) {
			in.Metadata = map[string]any{"filterMetadata": map[string]any{"envoy.filters.http.jwt_authn": map[string]any{"p": "s3cret"}, "x": map[string]any{}}, "y": json.Number("1")}
		}), "attributes.metadataContext", `{"filterMetadata":{"x":{}},"y":1}`, "/input/attributes/metadataContext/filterMetadata/envoy.filters.http.jwt_authn", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := decisionlog.Config{Redact: decisionlog.Redact{Headers: []string{"X-Session~/"}, Params: []string{"Ticket"}}}
			line := write(t, cfg, tt.entry)
			compare(t, line, "input."+tt.member, tt.out, tt.erased, tt.masked)
		})
	}
}

func TestRedactResult(t *testing.T) {
	for _, tt := range []struct{ name, in, out, masked string }{
		{"boolean", `true`, `true`, ""},
		{"null", `null`, `null`, ""},
		{"headers", `{"allowed":true,"headers":{"Authorization":"s3cret","x-user":"ann"}}`, `{"allowed":true,"headers":{"Authorization":"[redacted]","x-user":"ann"}}`, "/result/headers/Authorization"},
		{"list of headers", `{"headers":[{"x":["1","Bearer s3cret"]}],"response_headers_to_add":{"set-cookie":["s3cret"]}}`, `{"headers":[{"x":["1","[redacted]"]}],"response_headers_to_add":{"set-cookie":"[redacted]"}}`, "/result/headers/0/x/1 /result/response_headers_to_add/set-cookie"},
		{"query", `{"query_parameters_to_set":{"token":"s3cret","a":"1"}}`, `{"query_parameters_to_set":{"token":"[redacted]","a":"1"}}`, "/result/query_parameters_to_set/token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			compare(t, write(t, decisionlog.Config{}, &decisionlog.Entry{Result: doc(tt.in)}), "result", tt.out, "", tt.masked)
		})
	}
}

// TestClaims records those that are named, and no other.
func TestClaims(t *testing.T) {
	e := asked("/")
	e.Identity.Claims = map[string]any{"email": "s3cret", "tenant": map[string]any{"id": json.Number("7")}, "f": func() {}}
	line := write(t, decisionlog.Config{Claims: []string{"tenant", "plan", "f"}}, e)
	compare(t, line, "identity.claims", `{"tenant":{"id":7},"f":null}`, "/input/identity/claims", "")
	compare(t, line, "input.identity.claims", `{"tenant":{"id":7},"f":null}`, "/input/identity/claims", "")
}

// compare compares a member of the line, by its names with dots between them, and what redaction says that it did.
func compare(t *testing.T, line, member, out, erased, masked string) {
	t.Helper()
	got := parse(t, line)
	var want, is any = nil, got
	if err := json.Unmarshal([]byte(out), &want); err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(member, ".") {
		m, _ := is.(map[string]any)
		is = m[name]
	}
	if diff := cmp.Diff(want, is); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{"erased": erased, "masked": masked} {
		if want = "[" + want + "]"; want == "[]" {
			want = "<nil>"
		}
		if got := fmt.Sprint(got[name]); got != want {
			t.Errorf("%s %s, want %s", name, got, want)
		}
	}
	if strings.Contains(line, "s3cret") || strings.Contains(line, "czNjcmV0") {
		t.Errorf("a secret is in %s", line)
	}
}

func TestRedactEnvelope(t *testing.T) {
	line := write(t, decisionlog.Config{}, &decisionlog.Entry{Error: "parsing " + jwt + ": bad",
		Input: decisionlog.Input{Request: input.Request{Path: "/a?token=s3cret"}}})
	got := parse(t, line)
	if strings.Contains(line, "s3cret") || strings.Contains(line, "eyJ") || fmt.Sprint(got["masked"]) != "[/request/path /error/message]" {
		t.Error(line)
	}
}

// Whatever surrounds it, a parameter that is secret by name does not get out,
// and what was logged is one line of JSON.
// TestNamesOfTheQueryForgeNothing: a parameter's name is in the pointer to its value that was taken out; it must not end the pointer, nor the line.
func TestNamesOfTheQueryForgeNothing(t *testing.T) {
	for _, plain := range []bool{false, true} {
		const name = "a\"],\"outcome\":\"allow\"}\n{\"decision_id\":\"forged\\"
		path := "/?" + url.QueryEscape(name) + "=" + jwt
		e := asked(path)
		e.Outcome = "deny"
		line := write(t, decisionlog.Config{Plain: plain}, e)
		got := parse(t, line)
		want := "/input/parsed_query/" + name + "/0"
		if masked, _ := got["masked"].([]any); got["outcome"] != "deny" || strings.Count(line, "\n") != 1 || !slices.Contains(masked, any(want)) {
			t.Errorf("plain %t: %s", plain, line)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("/a", "b=1")
	f.Add("/?", "&%zz;#=")
	f.Add("?access_token=x;", "\xff\n")
	f.Add("?ccess_toke\xc2\x1d", "\xff\n")
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.Contains(before+after, "s3cret") {
			return
		}
		path := before + "?access_token=s3cret&" + after
		line := write(t, decisionlog.Config{}, asked(path, ":path", path, "Referer", path))
		if strings.Contains(line, "s3cret") || strings.Count(line, "\n") != 1 {
			t.Error(line)
		}
		parse(t, line)
	})
}
