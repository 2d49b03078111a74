package envoy_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"gatehouse/envoy/sandbox"
)

// provider is the certified OpenID provider of github.com/zitadel/oidc with the storage of its example, but for what that one
// does not have: users with roles, clients with JWTs for access tokens, keys that rotate.
type provider struct {
	*storage.Storage
	issuer string

	mu        sync.Mutex
	signing   providerKey   // guarded by mu
	published []providerKey // guarded by mu
	redirects []string      // guarded by mu: where browsers may be sent back to
	keyReads  atomic.Int64  // how often the key set was asked for
}

const (
	webSecret  = "canary-web-secret"
	userSecret = "canary-password"
)

// rolesOf is what the provider knows of its users, and of the client that acts for itself.
func rolesOf(subject string) []string {
	return map[string][]string{"vera": {"viewer"}, "ada": {"admin"}, "batch": {"clerk"}}[subject]
}

// startProvider runs the provider on loopback. Clients: "orders" gets JWTs, "opaque" gets opaque tokens, "batch" is a service.
func startProvider(t *testing.T) *provider {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	p := &provider{issuer: "http://" + server.Listener.Addr().String()}
	back := discoveredRedirect
	p.Storage = storage.NewStorageWithClients(providerUsers{}, map[string]*storage.Client{
		"orders": storage.WebClient("orders", webSecret, back),
		"opaque": storage.WebClient("opaque", webSecret, back),
	})
	p.redirects = []string{back}
	p.signing = newProviderKey(t)
	p.published = []providerKey{p.signing}
	log, err := os.Create(filepath.Join(t.TempDir(), "provider.txt")) // it may say what it likes
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = exampleop.SetupServer(p.issuer, p, slog.New(slog.NewTextHandler(log, nil)), false)
	server.Start()
	t.Cleanup(func() { server.Close(); log.Close() })
	return p
}

type providerUsers struct{}

func (providerUsers) GetUserByID(id string) *storage.User {
	if rolesOf(id) == nil {
		return nil
	}
	return &storage.User{ID: id, Username: id, Password: userSecret, Email: id + "@example.com", EmailVerified: true}
}
func (u providerUsers) GetUserByUsername(name string) *storage.User { return u.GetUserByID(name) }
func (providerUsers) ExampleClientID() string                       { return "service" }

// providerKey is a signing key as the provider takes it; its public half is a publishedKey.
type providerKey struct {
	id  string
	key *rsa.PrivateKey
}

func newProviderKey(t *testing.T) providerKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return providerKey{id: rand.Text(), key: key}
}

func (k providerKey) ID() string                                  { return k.id }
func (k providerKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k providerKey) Key() any                                    { return k.key }

type publishedKey struct{ providerKey }

func (k publishedKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k publishedKey) Use() string                        { return "sig" }
func (k publishedKey) Key() any                           { return &k.key.PublicKey }

func (p *provider) SigningKey(context.Context) (op.SigningKey, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.signing, nil
}

func (p *provider) KeySet(context.Context) ([]op.Key, error) {
	p.keyReads.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	var keys []op.Key
	for _, k := range p.published {
		keys = append(keys, publishedKey{k})
	}
	return keys, nil
}

// publish sets the public keys, sign the one that signs from now on.
func (p *provider) publish(keys ...providerKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = keys
}

func (p *provider) sign(key providerKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signing = key
}

// allowRedirect adds an address that browsers may be sent back to.
func (p *provider) allowRedirect(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.redirects = append(slices.Clone(p.redirects), address)
}

// jwtClient is a client whose access tokens are JWTs.
type jwtClient struct {
	op.Client
	redirects []string
}

func (c jwtClient) RedirectURIs() []string            { return c.redirects }
func (jwtClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

// serviceClient acts for itself.
type serviceClient struct{ jwtClient }

func (serviceClient) GetID() string { return "batch" }
func (serviceClient) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeClientCredentials}
}

func (p *provider) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	client, err := p.Storage.GetClientByClientID(ctx, id)
	if err == nil && id == "orders" {
		p.mu.Lock()
		defer p.mu.Unlock()
		client = jwtClient{client, p.redirects}
	}
	return client, err
}

func (p *provider) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	if id != "batch" || secret != webSecret {
		return nil, errors.New("unknown client or wrong secret")
	}
	client, err := p.Storage.GetClientByClientID(ctx, "orders")
	return serviceClient{jwtClient{client, nil}}, err
}

func (p *provider) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &oidc.JWTTokenRequest{Subject: id, Audience: []string{"orders"}, Scopes: scopes}, nil
}

func (p *provider) GetPrivateClaimsFromScopes(_ context.Context, subject, _ string, _ []string) (map[string]any, error) {
	return map[string]any{"roles": rolesOf(subject), "note": canary + subject}, nil
}

func (p *provider) SetIntrospectionFromToken(ctx context.Context, answer *oidc.IntrospectionResponse, token, subject, client string) error {
	err := p.Storage.SetIntrospectionFromToken(ctx, answer, token, subject, client)
	answer.Claims = map[string]any{"roles": rolesOf(subject), "note": canary + subject}
	return err
}

// ordersBehind is the Flask example with another identity section and without its directory, whose users are not the provider's: roles are those
// of the tokens. Nothing else is changed but timeouts.
func ordersBehind(t *testing.T, identity string) *sandbox.Sandbox {
	t.Helper()
	dir := copyOf(t, "flask-orders")
	replaceIdentity(t, filepath.Join(dir, "gatehouse.yaml"), "identity:\n"+identity)
	withoutDirectory(t, filepath.Join(dir, "gatehouse.yaml"))
	patient(t, dir)
	return start(t, sandbox.Config{App: dir})
}

// withoutDirectory takes the directory out of the Flask example's gatehouse.yaml.
func withoutDirectory(t *testing.T, file string) {
	t.Helper()
	before, rest, found := strings.Cut(read(t, file), "\ndirectory:")
	_, after, found2 := strings.Cut(rest, "\npolicy:\n")
	if !found || !found2 {
		t.Fatalf("%s has no directory section", file)
	}
	write(t, file, before+"\npolicy:\n"+after)
	amend(t, file, "  roles_from: both ", "  # ")
}

// patient gives an example's decisions the time that a busy test machine may need.
func patient(t *testing.T, dir string) {
	t.Helper()
	amend(t, filepath.Join(dir, "envoy.yaml"), "timeout: 0.25s", "timeout: 5s")
	amend(t, filepath.Join(dir, "gatehouse.yaml"), "decision: envoy/authz/allow", "decision: envoy/authz/allow\n  timeout: 2s")
}

// replaceIdentity puts another identity section into a gatehouse.yaml.
func replaceIdentity(t *testing.T, file, section string) {
	t.Helper()
	before, rest, found := strings.Cut(read(t, file), "\nidentity:\n")
	_, after, found2 := strings.Cut(rest, "\nheaders:")
	if !found || !found2 {
		t.Fatalf("%s has no identity section", file)
	}
	write(t, file, before+"\n"+section+"\nheaders:"+after)
}

// expect asks and compares the status.
func expect(t *testing.T, s *sandbox.Sandbox, what string, want int, c sandbox.Call) {
	t.Helper()
	got := ask(t, s, c)
	t.Logf("%-60s %-6s %-20s %d", what, c.Method, c.Path, got.Status)
	if got.Status != want {
		t.Errorf("%s: %s %s: %d %s, want %d", what, c.Method, c.Path, got.Status, got.Body, want)
	}
}

const lamp = `{"item": "lamp", "amount": 45}`

// A provider, its issuer and an audience: that is all that it takes.
func TestOpenIDProvider(t *testing.T) {
	t.Parallel()
	p := startProvider(t)
	s := ordersBehind(t, fmt.Sprintf("  jwt: [{issuer: %q, audiences: [orders], keys: {discovery: true}}]\n", p.issuer))
	web := discover(t, p.issuer, "orders", webSecret)
	web.scope = "openid offline_access" // with a refresh token

	vera := web.login(t, "vera", userSecret)
	expect(t, s, "a viewer who logged in reads", 200, sandbox.Call{Path: "/orders", Token: vera.Access})
	expect(t, s, "a viewer who logged in deletes", 403, sandbox.Call{Method: "DELETE", Path: "/orders/3", Token: vera.Access})
	again := web.refresh(t, vera)
	if again.Access == vera.Access || again.Access == "" {
		t.Fatal("refreshing gives no other token")
	}
	expect(t, s, "with the refreshed token", 200, sandbox.Call{Path: "/orders", Token: again.Access})
	expect(t, s, "an admin who logged in deletes", 200, sandbox.Call{Method: "DELETE", Path: "/orders/3", Token: web.login(t, "ada", userSecret).Access})
	batch := *web
	batch.id = "batch"
	expect(t, s, "a client for itself, as a clerk", 201, sandbox.Call{Method: "POST", Path: "/users/bob/orders", Body: lamp, Token: batch.clientCredentials(t).Access})

	expect(t, s, "a refresh token is no access token", 401, sandbox.Call{Path: "/orders", Token: vera.Refresh})
	expect(t, s, "an ID token has no roles", 403, sandbox.Call{Path: "/orders", Token: vera.ID})
	other := startProvider(t)
	expect(t, s, "another provider's token", 401, sandbox.Call{Path: "/orders", Token: discover(t, other.issuer, "orders", webSecret).login(t, "vera", userSecret).Access})
}
