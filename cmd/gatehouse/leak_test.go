package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// leaky is a policy that puts what it reads into all that it can say, and has built-ins fail on it.
const leaky = `package envoy.authz

http := input.attributes.request.http

key := http.headers["x-api-key"]

allow if {
	startswith(http.path, "/fail")
	net.cidr_contains("10.0.0.0/8", key)
	to_number(key) > 1
	time.parse_ns("2006", key) > 1
}

allow := {
	"allowed": false, "http_status": 403, "reason": sprintf("no %v", [key]), "body": json.marshal({"k": key, "t": http.headers.authorization}),
	"headers": [{"x-key": {"value": key, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}, {"location": sprintf("https://a.example/?next=%s&code=1#%s", [key, key])}],
	"dynamic_metadata": {"a": [key, {"b": base64.encode(key)}], key: urlquery.encode(key)},
} if {
	startswith(http.path, "/deny")
}

allow := {"allowed": true, "headers": {"x-key": sprintf("%s\n", [key])}} if startswith(http.path, "/refused")

allow := {
	"allowed": true, "headers": {"x-key": key}, "response_headers_to_add": {"x-b": http.headers.authorization},
	"query_parameters_to_set": {"k": key}, "dynamic_metadata": {"cookie": http.headers.cookie},
} if {
	startswith(http.path, "/allow")
}
`

// TestNoSecretLeavesTheProcess plants secrets in requests of every kind and outcome, and looks for them in all that the process says: the log,
// the spool, standard output and error, /metrics, /status, and what the commands print of the log.
func TestNoSecretLeavesTheProcess(t *testing.T) {
	t.Parallel()
	p := newProcess(t, `listen: {grpc: ["$GRPC"], admin: "$ADMIN"}
state_dir: state
policy: {bundles: [{path: policy}]}
decision_log: {file: decisions.log}
log: {level: debug}
`)
	write(t, p.path("policy", "authz.rego"), leaky)
	p.ready()
	conn := dial(t, p.grpc, nil)
	secrets := []string{"k3y-hunter2-Zq/9", "t0ken-abcdef.0123", "p4ss w\"rd%", "c00kie-0123456789"}
	asked := 0
	for _, where := range []string{"/allow", "/deny", "/fail", "/refused", "/none", "/bad/../path"} {
		for _, spell := range []func(string) string{url.PathEscape, url.QueryEscape, func(s string) string { return base64.URLEncoding.EncodeToString([]byte("x" + s)) }} {
			key := secrets[0]
			request := &auth.AttributeContext_HttpRequest{Method: "GET", Host: "app", Scheme: "https",
				Path: where + "/" + spell(key) + "?access_token=" + url.QueryEscape(secrets[1]) + "&user%5Bpassword%5D=" + url.QueryEscape(secrets[2]) + "&note=" + spell(key),
				Headers: map[string]string{"x-api-key": key, "authorization": "Bearer " + secrets[1], "cookie": "sid=" + secrets[3], "x-note": "is " + spell(key),
					"proxy-authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:"+secrets[2])), "referer": "https://a.example/" + spell(key),
					"content-type": "application/json"}, Body: fmt.Sprintf(`{"password": %q, "other": %q}`, secrets[2], key)}
			metadata, err := structpb.NewStruct(map[string]any{"x": []any{key}, "token": secrets[1]})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, err = auth.NewAuthorizationClient(conn).Check(ctx, &auth.CheckRequest{Attributes: &auth.AttributeContext{Request: &auth.AttributeContext_Request{Http: request},
				MetadataContext: &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"f": metadata}}}})
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			asked++
		}
	}
	var lines []byte
	eventually(t, "waiting for the log", func() (err error) {
		if lines, err = os.ReadFile(p.path("decisions.log")); err != nil || bytes.Count(lines, []byte("\n")) != asked {
			return fmt.Errorf("%d lines of %d, %v", bytes.Count(lines, []byte("\n")), asked, err)
		}
		return nil
	})
	outputs := map[string]string{"the log": string(lines), "standard error": p.stderr.String()}
	for _, path := range []string{"/metrics", "/status", "/readyz"} {
		_, outputs[path] = p.get(path)
	}
	segments, _ := filepath.Glob(p.path("state", "decisions", "*.seg"))
	for _, segment := range segments {
		text, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		outputs[segment] = string(text)
	}
	if len(segments) == 0 || !strings.Contains(outputs["standard error"], "denied") {
		t.Error("nothing to look at: no segment, or no event about a denial")
	}
	id := strings.Split(string(lines), `"`)[3]
	for _, args := range [][]string{{"log", "tail", "-n", "100"}, {"log", "tail", "--json", "-n", "100"}, {"log", "grep", ""}, {"log", "stats"}, {"replay", "--partial"}, {"replay", "--format", "json", "--answers"},
		{"explain", id}, {"explain", id, "--json"}, {"test", "--from-log", p.path("decisions.log")}} {
		if args[0] != "test" && args[0] != "log" {
			args = append(args, "--config", p.path("gatehouse.yaml"), "--log", p.path("decisions.log"))
		} else if args[0] == "log" {
			args = append(args, p.path("decisions.log"))
		} else {
			args = append(args, "--config", p.path("gatehouse.yaml"))
		}
		_, stdout, stderr := command(t, args...)
		outputs[strings.Join(args[:2], " ")] += stdout + stderr
	}
	for name, text := range outputs {
		for _, secret := range secrets {
			for _, s := range []string{secret, url.PathEscape(secret), url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret))[:12],
				base64.URLEncoding.EncodeToString([]byte("x" + secret))[2:12], strings.Trim(fmt.Sprintf("%q", secret), `"`)} {
				if i := strings.Index(text, s); i >= 0 {
					t.Errorf("%q is in %s: %.300q", s, name, text[max(0, i-200):])
				}
			}
		}
	}
}
