package gate_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gatehouse/gate"
	"gatehouse/identity"
)

const oneKey = `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}` // RFC 8037 appendix A.2

// TestReadyAndDegraded holds that an issuer without keys costs its own tokens and no more, and that a process starts its work
// only when some credential can be verified.
func TestReadyAndDegraded(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(oneKey)) }))
	defer up.Close()
	down := httptest.NewServer(http.NotFoundHandler())
	defer down.Close()
	issuer := func(name string, s *httptest.Server) identity.Issuer {
		return identity.Issuer{Issuer: name, Audiences: []string{"orders"}, Keys: identity.KeySource{URL: s.URL}}
	}
	const a, b = "https://a.example", "https://b.example"
	for _, tt := range []struct {
		name     string
		config   *identity.Config
		ready    string // what Ready says
		degraded string
	}{
		{"no credentials at all", nil, "", ""},
		{"no issuers", &identity.Config{}, "", ""},
		{"keys", &identity.Config{Issuers: []identity.Issuer{issuer(a, up)}}, "", ""},
		{"no keys", &identity.Config{Issuers: []identity.Issuer{issuer(a, down)}}, `no keys of issuer "` + a + `" yet: fetching ` + down.URL, a},
		{"two without keys", &identity.Config{Issuers: []identity.Issuer{issuer(a, down), issuer(b, down)}}, "no issuer's keys were loaded yet", a + " " + b},
		{"one of two", &identity.Config{Issuers: []identity.Issuer{issuer(a, up), issuer(b, down)}}, "", b},
		{"no keys but another credential", &identity.Config{Issuers: []identity.Issuer{issuer(a, down)}, Metadata: "payload"}, "", a},
	} {
		s, v := settings(), &gate.View{Policy: compile(t, allowAll)}
		v.Settings = s
		if tt.config != nil {
			var err error
			if s.Verifier, err = identity.New(*tt.config); err != nil {
				t.Fatal(err)
			}
			if v.Keys, err = s.Verifier.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		got := ""
		if err := v.Ready(); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tt.ready) || (got == "") != (tt.ready == "") {
			t.Errorf("%s: ready says %q, want %q", tt.name, got, tt.ready)
		}
		degraded := v.Degraded()
		if len(degraded) != len(strings.Fields(tt.degraded)) {
			t.Errorf("%s: degraded says %q, want %q", tt.name, degraded, tt.degraded)
			continue
		}
		for i, name := range strings.Fields(tt.degraded) {
			if !strings.Contains(degraded[i], name) || !strings.Contains(degraded[i], "status 404") {
				t.Errorf("%s: degraded says %q of %s", tt.name, degraded[i], name)
			}
		}
	}
	if err := (&gate.View{Settings: settings()}).Ready(); err == nil || !strings.Contains(err.Error(), "no policy") {
		t.Errorf("without a policy: %v", err)
	}
}
