package dynmod

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gatehouse/gate"
	"gatehouse/policy"
)

func TestSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, wrong string }{
		{text: "gatehouse.yaml"},
		{text: ` {"config": "/etc/gatehouse/gatehouse.yaml", "timeout": "1s", "with_request_body": {"max_request_bytes": 10}}`},
		{text: "", wrong: "give the path"},
		{text: "{}", wrong: "give the path"},
		{text: `{"config": "a", "nonsense": 1}`, wrong: "nonsense"},
		{text: `{"config": "a"} {}`, wrong: "more follows"},
		{text: `{"config": "a", "timeout": "0.5h"}`, wrong: "up to 1m0s"},
		{text: `{"config": "a", "timeout": "-1s"}`, wrong: "above zero"},
		{text: `{"config": "a", "with_request_body": {}}`, wrong: "max_request_bytes"},
		{text: `{"config": "a", "with_request_body": {"max_request_bytes": 99999999}}`, wrong: "max_request_bytes"},
		{text: `{"config": "` + strings.Repeat("a", maxSettings) + `"}`, wrong: "at most"},
	} {
		s, err := ParseSettings(c.text)
		switch {
		case c.wrong == "" && (err != nil || !strings.HasPrefix(s.Config, "/") || s.Timeout <= 0):
			t.Errorf("%.60s: %+v %v", c.text, s, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%.60s: %v, want %q", c.text, err, c.wrong)
		}
	}
}

func TestRouteSettings(t *testing.T) {
	t.Parallel()
	r, err := ParseRoute(`{"context_extensions": {"a": "1"}, "disable_request_body_buffering": true}`)
	if err != nil || !r.DisableRequestBodyBuffering || r.ContextExtensions["a"] != "1" {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := ParseRoute(`{"disabled": true}`); err == nil {
		t.Error("a member that is not known was taken")
	}
}

// TestRequest holds what the gate is asked about against what came, as ext_authz would tell of it.
func TestRequest(t *testing.T) {
	t.Parallel()
	f := &Filter{settings: &Settings{ContextExtensions: map[string]string{"of": "filter"}, IncludeTLSSession: true,
		WithRequestBody: &RequestBody{MaxRequestBytes: 6, AllowPartialMessage: true, PackAsBytes: true}}}
	raw := &Raw{
		Headers: gate.Headers{{Name: ":method", Value: "POST"}, {Name: ":path", Value: "/a?b"}, {Name: ":authority", Value: "h"}, {Name: ":scheme", Value: "https"},
			{Name: "x", Value: "1"}, {Name: "x", Value: "a\xff\xe2\x82b"}, {Name: partialBody, Value: "false"}, {Name: "x-envoy-downstream-service-cluster", Value: "svc"}},
		Protocol: "HTTP/1.1", Source: "[::1]:80", Destination: "/run/envoy.sock", Buffered: true, Body: []string{"abcd", "efgh"}, Received: 8,
		TLS:   &RawTLS{SNI: "name", Peer: Names{DNS: "dns", Subject: "CN=x"}, Local: Names{URI: "spiffe://a", DNS: "b"}},
		Route: &Route{ContextExtensions: map[string]string{"route": "1"}},
	}
	got, path := f.request(raw)
	want := &gate.Request{Method: "POST", Path: "/a?b", Host: "h", Scheme: "https", Protocol: "HTTP/1.1", Size: 8, Body: "abcdef", RawBody: true,
		Headers: gate.Headers{{Name: ":method", Value: "POST"}, {Name: ":path", Value: "/a?b"}, {Name: ":authority", Value: "h"}, {Name: ":scheme", Value: "https"},
			{Name: "x", Value: "1,a!!!b"}, {Name: "x-envoy-downstream-service-cluster", Value: "svc"}, {Name: partialBody, Value: "true"}},
		Source:      gate.Endpoint{Address: gate.Address{Host: "::1", Port: 80}, Service: "svc", Principal: "dns"},
		Destination: gate.Endpoint{Address: gate.Address{Other: map[string]any{"pipe": map[string]any{"path": "/run/envoy.sock"}}}, Principal: "spiffe://a"},
		Extensions:  map[string]string{"of": "filter", "route": "1"}, TLS: &gate.TLSSession{SNI: "name"}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(gate.Request{}, "Time", "Bytes")); diff != "" {
		t.Error(diff)
	}
	if path != "/a?b" || got.Bytes < 50 || len(f.settings.ContextExtensions) != 1 {
		t.Errorf("path %q, %d bytes, extensions %v", path, got.Bytes, f.settings.ContextExtensions)
	}
}

// TestRequestOwnsItsMemory: Envoy's is gone when the call is over.
func TestRequestOwnsItsMemory(t *testing.T) {
	t.Parallel()
	f := &Filter{settings: &Settings{WithRequestBody: &RequestBody{MaxRequestBytes: 100}}}
	envoys := []byte("value1body-a")
	s := string(envoys) // stands for Envoy's memory
	req, _ := f.request(&Raw{Headers: gate.Headers{{Name: s[:5], Value: s[5:6]}}, Buffered: true, Body: []string{s[6:]}})
	for _, own := range []string{req.Headers[0].Name, req.Headers[0].Value, req.Body} {
		if i := strings.Index(s, own); i < 0 || &[]byte(own)[0] == &envoys[0] {
			t.Errorf("%q", own)
		}
	}
	if !req.LossyBody || req.RawBody {
		t.Errorf("%+v", req)
	}
}

// TestManyHeaders: they are joined by name, also where there are many.
func TestManyHeaders(t *testing.T) {
	t.Parallel()
	raw := &Raw{}
	for i := range 3 * linear {
		raw.Headers = append(raw.Headers, gate.Header{Name: "n" + strings.Repeat("x", i%linear), Value: "v"})
	}
	req, _ := (&Filter{settings: &Settings{}}).request(raw)
	if len(req.Headers) != linear || req.Headers[5].Value != "v,v,v" {
		t.Errorf("%d headers, %v", len(req.Headers), req.Headers[5])
	}
}

func TestChangeQuery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path   string
		set    []policy.QueryParameter
		remove []string
		want   string
	}{
		{"/a", []policy.QueryParameter{{Name: "x", Value: "1"}}, nil, "/a?x=1"},
		{"/a?b=2&a=1&&c", []policy.QueryParameter{{Name: "b", Value: "3"}}, nil, "/a?=&a=1&b=3&c="},
		{"/a?x=1&y=2&x=3", nil, []string{"x"}, "/a?y=2"},
		{"/a?x=1", nil, []string{"x"}, "/a"},
		{"/a?x=1&x=0", []policy.QueryParameter{{Name: "n", Value: ""}}, nil, "/a?n=&x=1&x=0"},
	} {
		if got := changeQuery(c.path, c.set, c.remove); got != c.want {
			t.Errorf("%s: %s, want %s", c.path, got, c.want)
		}
	}
}

// FuzzRequest: nothing that Envoy could tell panics or is told twice.
func FuzzRequest(f *testing.F) {
	f.Add("x", "1", "X", "2", "/p?q", "127.0.0.1:1", "body")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, path, from, body string) {
		filter := &Filter{settings: &Settings{WithRequestBody: &RequestBody{MaxRequestBytes: 5}}}
		req, raw := filter.request(&Raw{Headers: gate.Headers{{Name: n1, Value: v1}, {Name: n2, Value: v2}, {Name: ":path", Value: path}}, Source: from, Buffered: true, Body: []string{body, body}})
		seen := map[string]bool{}
		for _, h := range req.Headers {
			if seen[h.Name] && strings.ToValidUTF8(n1+n2, "") == n1+n2 {
				t.Errorf("%q twice", h.Name)
			}
			seen[h.Name] = true
		}
		if len(req.Body) > 5 {
			t.Errorf("body of %d bytes", len(req.Body))
		}
		_ = changeQuery(raw, []policy.QueryParameter{{Name: n1, Value: v1}}, []string{n2})
	})
}
