package extauthz_test

import (
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/routes"
)

const permissionsPath = "/.well-known/gatehouse/permissions"

func permissionParts(t *testing.T) []gate.Part {
	t.Helper()
	verifier, keys, _ := signer(t)
	s := settings()
	s.Verifier = verifier
	s.Permissions = gate.Permissions{Path: permissionsPath, MaxAge: time.Minute}
	table, _, err := routes.Parse("routes.yaml", []byte("framework: fastapi\nroutes:\n  - GET, POST /orders\n  - GET /orders/{id}\n"))
	if err != nil {
		t.Fatal(err)
	}
	snapshot := compile(t, "package envoy.authz\nallow if \"viewer\" in input.identity.roles\nallow if { input.route.method == \"GET\"; input.route.template == \"/orders\" }")
	return []gate.Part{gatetest.With(t, s, snapshot), func(v *gate.View) { v.Keys, v.Routes = keys, map[string]*routes.Table{"": table} }}
}

// TestPermissionsAreNoAllow has the answer as Envoy hands it to the client instead of asking the application: a denial with the status 200.
func TestPermissionsAreNoAllow(t *testing.T) {
	client := authv3.NewAuthorizationClient(connection(t, gate.Config{}, permissionParts(t)...))
	got, err := client.Check(t.Context(), get(permissionsPath))
	if err != nil {
		t.Fatal(err)
	}
	denied := got.GetDeniedResponse()
	if got.GetStatus().GetCode() != int32(codes.PermissionDenied) || denied.GetStatus().GetCode() != 200 ||
		denied.GetBody() != `{"GET /orders":true,"POST /orders":false,"GET /orders/{id}":false}`+"\n" {
		t.Fatalf("%v", got)
	}
	for name, want := range map[string]string{"content-type": "application/json", "cache-control": "private, max-age=60", "vary": "Authorization, Cookie"} {
		if header(denied.GetHeaders(), name) != want {
			t.Errorf("%s is %q, want %q", name, header(denied.GetHeaders(), name), want)
		}
	}
	got, err = client.Check(t.Context(), get(permissionsPath, "authorization", "Bearer x.y.z"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, got, 401, "bad_credential")
}

// TestPermissionsOverHTTP has a denial where any answer of success is an allow.
func TestPermissionsOverHTTP(t *testing.T) {
	for _, kind := range []extauthz.Proxy{extauthz.ProxyEnvoy, extauthz.ProxyNginx, extauthz.ProxyTraefik} {
		p := serveHTTP(t, extauthz.HTTPConfig{Proxy: kind}, permissionParts(t)...)
		if got := p.ask(t, "GET", permissionsPath); got.status != 403 || got.reason() != "no_route" {
			t.Errorf("%s: %d %s", kind, got.status, got.body)
		}
	}
}
