package policy_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

// TestCapabilities calls a real server on loopback with http.send, under various capabilities.
func TestCapabilities(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"ok": true}`)) }))
	defer other.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
			return
		}
		_, _ = w.Write([]byte(`{"ok": true}`))
	}))
	defer server.Close()
	call := func(url string) string {
		return `allow := http.send({"method": "GET", "url": "` + url + `", "enable_redirect": true, "force_json_decode": true}).body.ok`
	}
	for name, tt := range map[string]struct {
		rego         string
		capabilities policy.Capabilities
		compiles     bool
		want         string // "allow", or a part of Decide's error
	}{
		"off":                       {call(server.URL), policy.Capabilities{}, false, "the built-in http.send is off by default: policy.capabilities turns it on"},
		"listed":                    {call(server.URL), policy.Capabilities{HTTPSend: []string{"127.0.0.1"}, HTTPSendPrivate: true}, true, "allow"},
		"a private address":         {call(server.URL), policy.Capabilities{HTTPSend: []string{"127.0.0.1"}}, true, "the address is private"},
		"a cloud's own address":     {call("http://100.100.100.200/"), policy.Capabilities{HTTPSend: []string{"100.100.100.200"}}, true, "the address is private"},
		"a name for one":            {call(strings.Replace(server.URL, "127.0.0.1", "localhost", 1)), policy.Capabilities{HTTPSend: []string{"localhost"}}, true, "the address is private"},
		"another host":              {call(server.URL), policy.Capabilities{HTTPSend: []string{"example.com"}, HTTPSendPrivate: true}, true, "127.0.0.1"},
		"a redirect to another":     {call(server.URL + "/elsewhere"), policy.Capabilities{HTTPSend: []string{"127.0.0.1"}, HTTPSendPrivate: true}, true, "localhost"},
		"not a host":                {call(server.URL), policy.Capabilities{HTTPSend: []string{"https://example.com"}}, false, "is not a host"},
		"lookup, off":               {`allow := count(net.lookup_ip_addr("localhost")) > 0`, policy.Capabilities{}, false, "net.lookup_ip_addr is off by default"},
		"lookup":                    {`allow := count(net.lookup_ip_addr("localhost")) > 0`, policy.Capabilities{NetLookup: []string{"localhost"}}, true, "allow"},
		"runtime, off":              {`allow := opa.runtime() == {}`, policy.Capabilities{}, false, "opa.runtime is off by default"},
		"runtime shows no variable": {`allow := opa.runtime() == {}`, policy.Capabilities{Runtime: true}, true, "allow"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := bundle.Read("app", fstest.MapFS{"p.rego": {Data: []byte("package envoy.authz\n" + tt.rego)}}, bundle.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			s, err := policy.Compile(t.Context(), policy.Config{Decision: "envoy/authz/allow", Capabilities: tt.capabilities}, []*bundle.Bundle{b})
			if !tt.compiles {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("compiling: %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			d, err := s.Decide(t.Context(), rego.Object(), time.Now())
			if tt.want == "allow" {
				if err != nil || !d.Allowed {
					t.Fatalf("%+v, %v", d, err)
				}
				return
			}
			if d.Allowed || !errors.Is(err, policy.ErrEvaluation) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%+v, %v; want an error with %q", d, err, tt.want)
			}
		})
	}
}
