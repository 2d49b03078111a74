package decisionlog_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/decisionlog"
)

const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"

// http puts members into an input's attributes.request.http.
func http(members string) string {
	return `{"attributes":{"request":{"http":{` + members + `}}}}`
}

func TestRedactInput(t *testing.T) {
	const at = "/input/attributes/request/http/"
	for _, tt := range []struct {
		name, in, out  string
		erased, masked string
	}{
		{"nothing secret", http(`"headers":{"accept":"*/*","x-code":"1"},"path":"/a?b=1&c"`), http(`"headers":{"accept":"*/*","x-code":"1"},"path":"/a?b=1&c"`), "", ""},
		{"authorization", http(`"headers":{"authorization":"Bearer s3cret"}`), http(`"headers":{"authorization":"[redacted]"}`), "", at + "headers/authorization"},
		{"header by any spelling", http(`"headers":{"X_Api_Key":"s3cret","Cookie":["s3cret"]}`), http(`"headers":{"X_Api_Key":"[redacted]","Cookie":"[redacted]"}`), "", at + "headers/Cookie " + at + "headers/X_Api_Key"},
		{"header from the configuration", http(`"headers":{"x-session~/":"s3cret"}`), http(`"headers":{"x-session~/":"[redacted]"}`), "", at + "headers/x-session~0~1"},
		{"credentials in an unlisted header", http(`"headers":{"x-a":"bearer s3cret","x-b":"Basic s3cret","x-c":"t=` + jwt + `;v=1"}`), http(`"headers":{"x-a":"[redacted]","x-b":"[redacted]","x-c":"t=[redacted];v=1"}`), "", at + "headers/x-a " + at + "headers/x-b " + at + "headers/x-c"},
		{"header map", http(`"headerMap":{"headers":[{"key":"Authorization","value":"s3cret"},{"key":"cookie","rawValue":"czNjcmV0"},{"key":":path","rawValue":"Lz90b2tlbj1zM2NyZXQ="},{"key":"accept","rawValue":"Ki8q"},{"key":"x","rawValue":"?"}]}`),
			http(`"headerMap":{"headers":[{"key":"Authorization","value":"[redacted]"},{"key":"cookie","rawValue":"[redacted]"},{"key":":path","rawValue":"Lz90b2tlbj1bcmVkYWN0ZWRd"},{"key":"accept","rawValue":"Ki8q"},{"key":"x","rawValue":"[redacted]"}]}`),
			"", at + "headerMap/headers/0/value " + at + "headerMap/headers/1/rawValue " + at + "headerMap/headers/2/rawValue " + at + "headerMap/headers/4/rawValue"},
		{"path", http(`"path":"/a?x=1&access_token=s3cret&y=%20"`), http(`"path":"/a?x=1&access_token=[redacted]&y=%20"`), "", at + "path"},
		{"escaped and spelled otherwise", http(`"path":"/a?access%5Ftoken=s3cret;Api-Key=s3cret&token[]=s3cret&accessToken=s3cret&%zz=s3cret"`), http(`"path":"/a?access%5Ftoken=[redacted];Api-Key=[redacted]&token[]=[redacted]&accessToken=[redacted]&%zz=[redacted]"`), "", at + "path"},
		{"parameter from the configuration", http(`"path":"/a?ticket=s3cret"`), http(`"path":"/a?ticket=[redacted]"`), "", at + "path"},
		{"code and fragment", http(`"path":"/cb?code=s3cret#id_token=s3cret","query":"code=s3cret","fragment":"token=s3cret"`), http(`"path":"/cb?code=[redacted]#id_token=[redacted]","query":"code=[redacted]","fragment":"token=[redacted]"`), "", at + "path " + at + "query " + at + "fragment"},
		{"urls in headers", http(`"headers":{":path":"/?token=s3cret","referer":"https://x/?a=1&code=s3cret"}`), http(`"headers":{":path":"/?token=[redacted]","referer":"https://x/?a=1&code=[redacted]"}`), "", at + "headers/:path " + at + "headers/referer"},
		{"a JWT as a segment", `{"parsed_path":["verify","` + jwt + `"]}`, `{"parsed_path":["verify","[redacted]"]}`, "", "/input/parsed_path/1"},
		{"parsed query", `{"parsed_query":{"token":["s3cret"],"a":["1","` + jwt + `"]}}`, `{"parsed_query":{"token":"[redacted]","a":["1","[redacted]"]}}`, "", "/input/parsed_query/a/1 /input/parsed_query/token"},
		{"body", `{"parsed_body":{"user":{"Password":"s3cret","name":"ann"},"list":[{"client_secret":{"v":"s3cret"}}],"code":"de"}}`, `{"parsed_body":{"user":{"Password":"[redacted]","name":"ann"},"list":[{"client_secret":"[redacted]"}],"code":"de"}}`, "", "/input/parsed_body/list/0/client_secret /input/parsed_body/user/Password"},
		{"raw body", http(`"body":"password=s3cret","rawBody":"czNjcmV0"`), http(``), at + "body " + at + "rawBody", ""},
		{"claims", `{"identity":{"subject":"ann","claims":{"email":"s3cret"}}}`, `{"identity":{"subject":"ann"}}`, "/input/identity/claims", ""},
		{"jwt_authn", `{"attributes":{"metadataContext":{"filterMetadata":{"envoy.filters.http.jwt_authn":{"p":"s3cret"},"x":{}}}}}`, `{"attributes":{"metadataContext":{"filterMetadata":{"x":{}}}}}`, "/input/attributes/metadataContext/filterMetadata/envoy.filters.http.jwt_authn", ""},
		{"not an object", `["s3"]`, `["s3"]`, "", ""},
		{"other types than expected", `{"attributes":{"request":{"http":{"headers":[1],"path":7,"headerMap":{"headers":[1]}}}},"identity":"x","parsed_query":null,"parsed_body":null}`, `{"attributes":{"request":{"http":{"headers":[1],"path":7,"headerMap":{"headers":[1]}}}},"identity":"x","parsed_query":null,"parsed_body":null}`, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := decisionlog.Config{Redact: decisionlog.Redact{Headers: []string{"X-Session~/"}, Params: []string{"Ticket"}}}
			line := write(t, cfg, &decisionlog.Entry{Input: doc(tt.in)})
			compare(t, line, "input", tt.out, tt.erased, tt.masked)
		})
	}
}

func TestRedactResult(t *testing.T) {
	for _, tt := range []struct{ name, in, out, masked string }{
		{"boolean", `true`, `true`, ""},
		{"headers", `{"allowed":true,"headers":{"Authorization":"s3cret","x-user":"ann"}}`, `{"allowed":true,"headers":{"Authorization":"[redacted]","x-user":"ann"}}`, "/result/headers/Authorization"},
		{"list of headers", `{"headers":[{"x":["1","Bearer s3cret"]}],"response_headers_to_add":{"set-cookie":["s3cret"]}}`, `{"headers":[{"x":["1","[redacted]"]}],"response_headers_to_add":{"set-cookie":"[redacted]"}}`, "/result/headers/0/x/1 /result/response_headers_to_add/set-cookie"},
		{"query", `{"query_parameters_to_set":{"token":"s3cret","a":"1"}}`, `{"query_parameters_to_set":{"token":"[redacted]","a":"1"}}`, "/result/query_parameters_to_set/token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			compare(t, write(t, decisionlog.Config{}, &decisionlog.Entry{Result: doc(tt.in)}), "result", tt.out, "", tt.masked)
		})
	}
}

func compare(t *testing.T, line, member, out, erased, masked string) {
	t.Helper()
	got := parse(t, line)
	var want any
	if err := json.Unmarshal([]byte(out), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got[member]); diff != "" {
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
	line := write(t, decisionlog.Config{}, &decisionlog.Entry{Path: "/a?token=s3cret", Error: "parsing " + jwt + ": bad"})
	got := parse(t, line)
	if strings.Contains(line, "s3cret") || strings.Contains(line, "eyJ") || fmt.Sprint(got["masked"]) != "[/request/path /error/message]" {
		t.Error(line)
	}
}

// Whatever surrounds it, a parameter that is secret by name does not get out,
// and what was logged is one line of JSON.
func FuzzQuery(f *testing.F) {
	f.Add("/a", "b=1")
	f.Add("/?", "&%zz;#=")
	f.Add("?access_token=x;", "\xff\n")
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.Contains(before+after, "s3cret") {
			return
		}
		path := before + "?access_token=s3cret&" + after
		in := made(func() (any, error) {
			return map[string]any{"attributes": map[string]any{"request": map[string]any{"http": map[string]any{
				"path": path, "headers": map[string]any{":path": path, "Referer": path},
			}}}}, nil
		})
		line := write(t, decisionlog.Config{}, &decisionlog.Entry{Path: path, Input: in})
		if strings.Contains(line, "s3cret") || strings.Count(line, "\n") != 1 {
			t.Error(line)
		}
		parse(t, line)
	})
}
