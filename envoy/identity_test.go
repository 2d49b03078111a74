package envoy_test

import (
	"net/http"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"gatehouse/envoy/sandbox"
)

// forgeries are ways to send an identity header of one's own.
var forgeries = map[string]http.Header{
	"nothing sent":       {},
	"canonical":          {"X-Auth-Subject": {"root"}, "X-Auth-Roles": {"admin"}},
	"lower case":         {"x-auth-subject": {"root"}, "x-auth-roles": {"admin"}},
	"twice":              {"X-Auth-Subject": {"root", "admin"}, "X-Auth-Roles": {"admin", "root"}},
	"two spellings":      {"X-Auth-Subject": {"root"}, "x-AUTH-subject": {"admin"}},
	"underscores":        {"x_auth_subject": {"root"}, "x_auth_roles": {"admin"}},
	"mixed":              {"x-auth_subject": {"root"}, "X_Auth-Roles": {"admin"}},
	"both":               {"X-Auth-Subject": {"root"}, "x_auth_subject": {"root"}, "X_AUTH_SUBJECT": {"root"}},
	"list in one":        {"X-Auth-Subject": {"root, vera"}},
	"listed as hop":      {"Connection": {"x-auth-subject"}, "X-Auth-Subject": {"root"}},
	"underscores, twice": {"X_Auth_Subject": {"root", "root"}},
}

// With an Envoy that strips nothing, in front of a WSGI server that folds underscores: Gatehouse alone keeps forged
// identities from the application.
func TestIdentityHeadersCannotBeForged(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{App: echoApp(t)})
	for name, sent := range forgeries {
		for _, c := range []struct {
			who, token    string
			subject, role string
		}{
			{"anonymous", "", "", ""},
			{"vera", s.Token("vera", "viewer"), "vera", "viewer"},
			{"a subject without roles", s.Token("dave"), "dave", ""},
		} {
			got := seen(t, s, sandbox.Call{Path: "/", Token: c.token, Header: sent.Clone()})
			if got["X-Auth-Subject"] != c.subject || got["X-Auth-Roles"] != c.role {
				t.Errorf("%s, %s: the app sees subject %q and roles %q, want %q and %q",
					c.who, name, got["X-Auth-Subject"], got["X-Auth-Roles"], c.subject, c.role)
			}
		}
	}
}

// The control: where a server lets everything through and sets nothing, each forgery reaches the application.
func TestForgeriesArriveWithoutGatehouse(t *testing.T) {
	t.Parallel()
	s := startAnswers(t, map[string]*authv3.CheckResponse{"/": allow(&authv3.OkHttpResponse{})})
	for name, sent := range forgeries {
		if name == "nothing sent" || name == "listed as hop" { // Envoy drops what Connection lists
			continue
		}
		got := seen(t, s, sandbox.Call{Path: "/", Header: sent.Clone()})
		if !contains(got["X-Auth-Subject"]+got["X-Auth-Roles"], "root") {
			t.Errorf("%s does not arrive, so the other tests prove nothing by it: %v", name, got)
		}
	}
}

// The Envoy configuration to copy refuses the underscores and strips the rest before Gatehouse is even asked.
func TestExampleEnvoyRefusesUnderscores(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	token := s.Token("vera", "viewer")
	for name, sent := range forgeries {
		want := http.StatusOK
		for header := range sent {
			if contains(header, "_") {
				want = http.StatusBadRequest
			}
		}
		if got := ask(t, s, sandbox.Call{Path: "/orders", Token: token, Header: sent.Clone()}); got.Status != want {
			t.Errorf("%s: %d, want %d", name, got.Status, want)
		}
	}
}

// Several roles arrive as one header.
func TestRolesArriveTogether(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{App: echoApp(t)})
	got := seen(t, s, sandbox.Call{Path: "/", Token: s.Token("eve", "viewer", "clerk"), Header: http.Header{"X-Auth-Roles": {"admin"}}})
	if got["X-Auth-Roles"] != "viewer,clerk" {
		t.Errorf("the app sees roles %q", got["X-Auth-Roles"])
	}
}
