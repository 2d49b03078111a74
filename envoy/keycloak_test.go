//go:build keycloak

package envoy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

// keycloak is a real one, with the realm of examples/keycloak, and its administrator.
type keycloak struct {
	url, realm string // of the server, and of the realm in it
	token      string // of the administrator
	renew      time.Time
}

const keycloakAdmin = "canary-admin-password"

// startKeycloak runs the Keycloak that `make test-keycloak` unpacked.
func startKeycloak(t *testing.T) *keycloak {
	t.Helper()
	home := os.Getenv("GATEHOUSE_KEYCLOAK")
	if home == "" {
		t.Fatal("GATEHOUSE_KEYCLOAK is not set: run make test-keycloak")
	}
	if err := os.MkdirAll(filepath.Join(home, "data", "import"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(home, "data", "import", "realm.json"), read(t, filepath.Join(root, "examples", "keycloak", "realm.json")))
	port, begun := freePort(t), time.Now()
	p := program(t, "keycloak", home, []string{"bash", filepath.Join(home, "bin", "kc.sh"), "start-dev", "--db=dev-mem", "--http-host=127.0.0.1",
		fmt.Sprintf("--http-port=%d", port), "--import-realm"}, "KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD="+keycloakAdmin)
	k := &keycloak{url: "http://" + at(port)}
	k.realm = k.url + "/realms/orders"
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := p.Ready(ctx, k.realm); err != nil {
		t.Fatal(err)
	}
	t.Logf("Keycloak started in %.1f s", time.Since(begun).Seconds())
	return k
}

// admin asks the admin REST API about the realm, and returns what it answers. in is sent as JSON unless nil.
func (k *keycloak) admin(t *testing.T, method, path string, in, out any) {
	t.Helper()
	if time.Now().After(k.renew) { // the token lives a minute
		resp, err := http.PostForm(k.url+"/realms/master/protocol/openid-connect/token",
			url.Values{"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {keycloakAdmin}})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var g grant
		if err := json.NewDecoder(resp.Body).Decode(&g); err != nil || g.Access == "" {
			t.Fatalf("the administrator gets no token: %s %v", resp.Status, err)
		}
		handedOut.add(g.Access, g.Refresh)
		k.token, k.renew = g.Access, time.Now().Add(30*time.Second)
	}
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, k.url+"/admin/realms/orders"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+k.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %.500s %v", method, path, resp.Status, text, err)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatalf("%s %s answers %.500s: %v", method, path, text, err)
		}
	}
}

// client is one of the realm's clients, with the secret that realm.json gives it.
func (k *keycloak) client(t *testing.T, id string) *relyingParty {
	t.Helper()
	return discover(t, k.realm, id, id+"-secret")
}

// password is a token by the resource owner password grant, which Keycloak has for tests such as this.
func (rp *relyingParty) password(t *testing.T, user string) grant {
	t.Helper()
	return rp.must(t, rp.meta.Token, url.Values{"grant_type": {"password"}, "username": {user}, "password": {user + "-password"}, "scope": {"openid"}})
}

// userID is what Keycloak calls somebody.
func (k *keycloak) userID(t *testing.T, name string) string {
	t.Helper()
	var users []struct{ ID string }
	k.admin(t, "GET", "/users?exact=true&username="+name, nil, &users)
	if len(users) != 1 {
		t.Fatalf("%d users are called %s", len(users), name)
	}
	return users[0].ID
}

// grantRole gives a user a role of the realm.
func (k *keycloak) grantRole(t *testing.T, user, role string) {
	t.Helper()
	var found map[string]any
	k.admin(t, "GET", "/roles/"+role, nil, &found)
	k.admin(t, "POST", "/users/"+k.userID(t, user)+"/role-mappings/realm", []any{found}, nil)
}

// allowRedirect lets browsers come back to another address than the one in realm.json.
func (k *keycloak) allowRedirect(t *testing.T, client, address string) {
	t.Helper()
	var found []map[string]any
	k.admin(t, "GET", "/clients?clientId="+client, nil, &found)
	found[0]["redirectUris"] = []string{address}
	k.admin(t, "PUT", "/clients/"+found[0]["id"].(string), found[0], nil)
}

// signingKeys are the realm's keys for RS256: by key id, the component that provides each.
func (k *keycloak) signingKeys(t *testing.T) map[string]string {
	t.Helper()
	var keys struct {
		Keys []struct{ Kid, ProviderID, Algorithm, Status string }
	}
	k.admin(t, "GET", "/keys", nil, &keys)
	found := map[string]string{}
	for _, key := range keys.Keys {
		if key.Algorithm == "RS256" {
			found[key.Kid] = key.ProviderID
		}
	}
	return found
}

// addKey makes Keycloak sign with a new key from now on; the others stay published.
func (k *keycloak) addKey(t *testing.T, name string, priority int) (kid string) {
	t.Helper()
	before := k.signingKeys(t)
	k.admin(t, "POST", "/components", map[string]any{"name": name, "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
		"config": map[string][]string{"priority": {fmt.Sprint(priority)}, "enabled": {"true"}, "active": {"true"}, "algorithm": {"RS256"}, "keySize": {"2048"}}}, nil)
	for kid := range k.signingKeys(t) {
		if before[kid] == "" {
			return kid
		}
	}
	t.Fatal("Keycloak has no new key")
	return ""
}

// do is a sandbox's Do for a stack.
func (s *stack) do(t *testing.T) func(context.Context, sandbox.Call) (sandbox.Answer, error) {
	return func(_ context.Context, c sandbox.Call) (sandbox.Answer, error) {
		got := s.call(t, c)
		return sandbox.Answer{Status: got.Status, Header: got.Header, Body: got.Body}, nil
	}
}

func (s *stack) call(t *testing.T, c sandbox.Call) verdict {
	t.Helper()
	if c.Method == "" {
		c.Method = "GET"
	}
	return s.say(t, c.Method+" "+c.Path, at(s.port), "Authorization: Bearer "+c.Token, c.Body)
}

func (s *stack) expect(t *testing.T, what, want string, c sandbox.Call) {
	t.Helper()
	got := s.call(t, c)
	t.Logf("%-60s %-6s %-20s %s", what, c.Method, c.Path, got)
	if got.String() != want {
		t.Errorf("%s: %s %s: %s %s, want %s", what, c.Method, c.Path, got, got.Body, want)
	}
}

// The orders API behind the example's Envoy and Gatehouse, with users, roles, groups, logins and keys of a real Keycloak.
func TestKeycloak(t *testing.T) {
	k := startKeycloak(t)
	s := keycloakExample(t, "orders-web-secret", "http://127.0.0.1:8180", k.url, "port_value: 8180}", fmt.Sprintf("port_value: %d}", portOf(t, k.url)),
		"      audiences: [orders] ", "      keys: {discovery: true, refresh: 1s}\n      audiences: [orders] ")
	timed := func(name string, step func(*testing.T)) {
		begun := time.Now()
		t.Run(name, step)
		t.Logf("%s: %.1f s", name, time.Since(begun).Seconds())
	}
	timed("tokens", func(t *testing.T) { keycloakTokens(t, k, s) })
	timed("login", func(t *testing.T) { keycloakLogin(t, k, s) })
	timed("administration", func(t *testing.T) { keycloakAdministration(t, k, s) })
	timed("keys", func(t *testing.T) { keycloakKeys(t, k, s) })
	timed("introspection", func(t *testing.T) { keycloakIntrospection(t, k, s) })
	timed("README", func(t *testing.T) { keycloakReadme(t, k, s) })
}

func keycloakTokens(t *testing.T, k *keycloak, s *stack) {
	web := k.client(t, "orders-web")
	vera := web.password(t, "vera")
	s.expect(t, "a viewer, by her group, reads", "app 200", sandbox.Call{Path: "/orders", Token: vera.Access})
	s.expect(t, "a viewer deletes", "gatehouse 403", sandbox.Call{Method: "DELETE", Path: "/orders/2", Token: vera.Access})
	s.expect(t, "with the refreshed token", "app 200", sandbox.Call{Path: "/orders", Token: web.refresh(t, vera).Access})
	s.expect(t, "an admin, by her group, deletes", "app 200", sandbox.Call{Method: "DELETE", Path: "/orders/2", Token: web.password(t, "ada").Access})
	s.expect(t, "somebody without a role reads", "gatehouse 403", sandbox.Call{Path: "/orders", Token: web.password(t, "dave").Access})
	s.expect(t, "a service, as a clerk, creates", "app 201", sandbox.Call{Method: "POST", Path: "/users/bob/orders", Body: lamp,
		Token: k.client(t, "orders-batch").clientCredentials(t).Access})
	s.expect(t, "an admin with a token for another application", "gatehouse 401", sandbox.Call{Path: "/orders", Token: k.client(t, "other-web").password(t, "ada").Access})
	s.expect(t, "an ID token", "gatehouse 401", sandbox.Call{Path: "/orders", Token: vera.ID})
	s.expect(t, "a refresh token", "gatehouse 401", sandbox.Call{Path: "/orders", Token: vera.Refresh})
	k.admin(t, "GET", "", nil, nil)
	s.expect(t, "the administrator's token of another realm", "gatehouse 401", sandbox.Call{Path: "/orders", Token: k.token})
}

func keycloakLogin(t *testing.T, k *keycloak, s *stack) {
	web := k.client(t, "orders-web")
	web.redirect = "http://" + at(s.port) + "/oauth/callback"
	k.allowRedirect(t, "orders-web", web.redirect)
	vera := web.login(t, "vera", "vera-password")
	s.expect(t, "a viewer who logged in", "app 200", sandbox.Call{Path: "/orders", Token: vera.Access})
	browse(t, s, "vera", "vera-password", vera.Access)
}

func keycloakAdministration(t *testing.T, k *keycloak, s *stack) {
	web := k.client(t, "orders-web")
	k.grantRole(t, "dave", "viewer")
	s.expect(t, "a role that was granted", "app 200", sandbox.Call{Path: "/orders", Token: web.password(t, "dave").Access})
	k.admin(t, "POST", "/users", map[string]any{"username": "erin", "enabled": true, "email": "erin@example.com", "emailVerified": true, "firstName": "Erin",
		"lastName": "Example", "groups": []string{"/management"}, "credentials": []any{map[string]any{"type": "password", "value": "erin-password"}}}, nil)
	erin := web.password(t, "erin").Access
	s.expect(t, "a user who was made just now, by her group", "app 200", sandbox.Call{Method: "DELETE", Path: "/orders/3", Token: erin})
}

// An administrator adds a key, which signs from then on, and later takes the old one away, while requests run.
func keycloakKeys(t *testing.T, k *keycloak, s *stack) {
	batch := k.client(t, "orders-batch")
	old := batch.clientCredentials(t).Access
	c := &clients{rp: batch, ask: s.do(t), served: map[string]int{}}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() { c.run(ctx) })
	}
	defer running.Wait()
	defer stop()

	c.await(t, keyOf(old), 50)
	first := k.addKey(t, "first", 200)
	c.await(t, first, 100)
	s.expect(t, "a token of the key before", "app 200", sandbox.Call{Path: "/orders", Token: old})
	k.admin(t, "DELETE", "/components/"+k.signingKeys(t)[keyOf(old)], nil, nil)
	eventually(t, "a token of the key that is gone is refused", func() bool { return s.call(t, sandbox.Call{Path: "/orders", Token: old}).Status == 401 })
	c.await(t, first, 200)
	stop()
	running.Wait()
	if len(c.failed) > 0 {
		t.Errorf("%d requests failed, the first: %s", len(c.failed), c.failed[0])
	}
	t.Logf("requests by key: %v", c.served)
}

// Asked about each token, Keycloak takes back one whose session it ended, although its signature and its time are good.
func keycloakIntrospection(t *testing.T, k *keycloak, s *stack) {
	secret := filepath.Join(s.dir, "gatehouse.secret")
	write(t, secret, "gatehouse-secret\n")
	before := strings.ReplaceAll(read(t, filepath.Join(root, "examples", "keycloak", "gatehouse.yaml")), "http://127.0.0.1:8180", k.url)
	before = strings.ReplaceAll(before, "decision: envoy/authz/allow", "decision: envoy/authz/allow\n  timeout: 2s")
	head, rest, _ := strings.Cut(before, "\nidentity:\n")
	_, tail, _ := strings.Cut(rest, "\nheaders:")
	defer s.reload(t, before)
	s.reload(t, head+fmt.Sprintf(`
identity:
  introspection:
    - url: %s/protocol/openid-connect/token/introspect
      issuer: %s
      client_id: gatehouse
      client_secret_file: %s
      audiences: [orders]
      claims: {roles: realm_access.roles}
      cache_for: 1s

headers:`, k.realm, k.realm, secret)+tail)
	web := k.client(t, "orders-web")
	vera := web.password(t, "vera").Access
	s.expect(t, "a viewer, as Keycloak says", "app 200", sandbox.Call{Path: "/orders", Token: vera})
	s.expect(t, "a viewer deletes", "gatehouse 403", sandbox.Call{Method: "DELETE", Path: "/orders/1", Token: vera})
	s.expect(t, "a token for another application", "gatehouse 401", sandbox.Call{Path: "/orders", Token: k.client(t, "other-web").password(t, "ada").Access})
	k.admin(t, "POST", "/users/"+k.userID(t, "vera")+"/logout", nil, nil)
	eventually(t, "the token of a session that was ended is refused", func() bool { return s.call(t, sandbox.Call{Path: "/orders", Token: vera}).Status == 401 })
}

// The README's transcript: commands after a dollar sign, and what they print.
func keycloakReadme(t *testing.T, k *keycloak, s *stack) {
	_, text, _ := strings.Cut(read(t, filepath.Join(root, "examples", "keycloak", "README.md")), "```console\n")
	text, _, found := strings.Cut(text, "```")
	if !found {
		t.Fatal("the README has no transcript")
	}
	text = strings.NewReplacer("127.0.0.1:8180", at(portOf(t, k.url)), at(8080), at(s.port)).Replace(text)
	var script, want strings.Builder
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			script.WriteString(command)
		} else {
			want.WriteString(line)
		}
	}
	c := exec.CommandContext(t.Context(), "bash", "-e", "-o", "pipefail", "-c", script.String())
	c.Dir = s.dir
	out, err := c.CombinedOutput()
	if err != nil || string(out) != want.String() {
		t.Errorf("the README's commands print %q, want %q: %v", out, want.String(), err)
	}
}
