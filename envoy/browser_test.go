package envoy_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keycloakExample is examples/keycloak in front of the orders API, with other ports than it is written with. changes are made to
// both of its configurations where they hold the text; secret is that of the client as which Envoy logs users in.
func keycloakExample(t *testing.T, secret string, changes ...string) *stack {
	t.Helper()
	all := workDir(t)
	for _, name := range []string{"keycloak", "flask-orders"} {
		if err := os.CopyFS(filepath.Join(all, name), os.DirFS(filepath.Join(root, "examples", name))); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(all, "keycloak")
	patient(t, dir)
	write(t, filepath.Join(dir, "client.secret"), secret)
	write(t, filepath.Join(dir, "cookie.key"), "canary-key-of-the-cookies-0123456789")
	for i := 0; i < len(changes); i += 2 {
		hit := false
		for _, name := range []string{"gatehouse.yaml", "envoy.yaml"} {
			if file := filepath.Join(dir, name); contains(read(t, file), changes[i]) {
				amend(t, file, changes[i], changes[i+1])
				hit = true
			}
		}
		if !hit {
			t.Fatalf("no configuration of the example holds %q", changes[i])
		}
	}
	app := serve(t, "app", filepath.Join(all, "flask-orders"), gunicorn(flaskPython(t), "app:app"), "ORDERS_DATABASE="+filepath.Join(all, "orders.db"))
	return startStack(t, dir, map[int]int{8000: app})
}

// A browser is sent to log in, comes back with cookies, and is from then on who its token says. Clients with tokens are not.
func browse(t *testing.T, s *stack, viewer, password, token string) {
	t.Helper()
	orders := "http://" + at(s.port) + "/orders"
	b := &browser{cookies: map[string]string{}}
	form := b.get(t, orders, "")
	back := b.fillIn(t, form, viewer, password, "")
	if back.at.String() != orders || back.status != 200 || !contains(back.body, `"orders"`) {
		t.Fatalf("after logging in the browser is at %s: %d %s", back.at.Redacted(), back.status, back.body)
	}
	if again := b.get(t, orders+"/1", ""); again.status != 200 || again.at.Host != at(s.port) {
		t.Errorf("asking again ends at %s: %d", again.at.Redacted(), again.status)
	}
	if denied := b.walk(t, http.MethodDelete, orders+"/3", nil, ""); denied.status != 403 || denied.header.Get("X-Decision-Id") == "" {
		t.Errorf("a viewer deletes: %d %s", denied.status, denied.body)
	}
	for request, want := range map[string]string{
		"GET /orders\r\n":                                    "envoy 401",
		"GET /orders\r\nAccept: application/json":            "envoy 401",
		"GET /healthz\r\n":                                   "app 200",
		"GET /orders\r\nAuthorization: Bearer " + token:      "app 200",
		"GET /orders\r\nAuthorization: Bearer x":             "gatehouse 401",
		"GET /orders\r\nAuthorization: Basic dmVyYTp2ZXJh":   "envoy 401",
		"GET /orders\r\nCookie: BearerToken=x.y.z":           "envoy 401", // Envoy logs what it cannot decrypt: no token here
		"GET /healthz\r\nCookie: BearerToken=x.y.z":          "app 200",
		"DELETE /orders/3\r\nAuthorization: Bearer " + token: "gatehouse 403",
	} {
		line, header, _ := strings.Cut(request, "\r\n")
		if got := s.say(t, line, at(s.port), header); got.String() != want {
			t.Errorf("%q: %s, want %s: %s", request, got, want, got.Body)
		}
	}
	b.get(t, "http://"+at(s.port)+"/oauth/logout", "http://"+at(s.port)+"/")
	for name := range b.cookies { // the provider keeps its own: it would log the browser in again without asking
		if name == at(s.port)+" BearerToken" {
			t.Error("after logging out the browser still has a token")
		}
	}
}

// The recipe for browser applications, with Envoy's oauth2 filter: the example's own files, but for where the provider is.
func TestBrowserLogsIn(t *testing.T) {
	t.Parallel()
	p := startProvider(t)
	s := keycloakExample(t, webSecret, "preset: keycloak ", fmt.Sprintf("issuer: %q ", p.issuer), "      tenant: orders", fmt.Sprintf("      keys: {url: %q} #", p.issuer+"/keys"),
		"      domain: http://127.0.0.1:8180", "      claims: {roles: roles} #",
		"http://127.0.0.1:8180/realms/orders/protocol/openid-connect/auth", p.issuer+"/auth",
		"http://127.0.0.1:8180/realms/orders/protocol/openid-connect/token", p.issuer+"/oauth/token",
		"port_value: 8180}", fmt.Sprintf("port_value: %d}", portOf(t, p.issuer)), "client_id: orders-web", "client_id: orders")
	p.allowRedirect("http://" + at(s.port) + "/oauth/callback")
	token := discover(t, p.issuer, "orders", webSecret).login(t, "vera", userSecret).Access
	browse(t, s, "vera", userSecret, token)
}
