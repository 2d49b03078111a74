package envoy_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/envoy/sandbox"
)

// Opaque tokens are asked about; one that was revoked opens nothing any more.
func TestProviderIntrospection(t *testing.T) {
	t.Parallel()
	p := startProvider(t)
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, webSecret+"\n")
	s := ordersBehind(t, fmt.Sprintf("  introspection: [{url: %q, client_id: opaque, client_secret_file: %q, cache_for: 1s}]\n", p.issuer+"/oauth/introspect", secret))
	web := discover(t, p.issuer, "opaque", webSecret)
	web.scope = "openid offline_access"

	vera, ada := web.login(t, "vera", userSecret), web.login(t, "ada", userSecret)
	if strings.Count(vera.Access, ".") == 2 {
		t.Fatal("the token is not opaque")
	}
	expect(t, s, "a viewer reads", 200, sandbox.Call{Path: "/orders", Token: vera.Access})
	expect(t, s, "a viewer deletes", 403, sandbox.Call{Method: "DELETE", Path: "/orders/3", Token: vera.Access})
	expect(t, s, "an admin deletes", 200, sandbox.Call{Method: "DELETE", Path: "/orders/3", Token: ada.Access})
	expect(t, s, "with the refreshed token", 200, sandbox.Call{Path: "/orders", Token: web.refresh(t, ada).Access})
	expect(t, s, "nobody's token", 401, sandbox.Call{Path: "/orders", Token: "x" + vera.Access[1:]})
	web.revoke(t, vera.Access)
	eventually(t, "the revoked token is refused", func() bool {
		return ask(t, s, sandbox.Call{Path: "/orders", Token: vera.Access}).Status == 401
	})
}
