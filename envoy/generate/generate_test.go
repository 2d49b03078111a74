package generate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"gatehouse/config"
)

// read is a configuration out of text, with a route table beside it.
func read(t *testing.T, text, table string) *config.Config {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"gatehouse.yaml": text, "routes.yaml": table} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, doc, err := config.Source{File: filepath.Join(dir, "gatehouse.yaml")}.Read()
	if err != nil || len(doc.Errs) > 0 {
		t.Fatal(err, doc.Errs)
	}
	return c
}

func TestFromConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		config, table, app string
		want               Config
		err                string
	}{
		"nothing said": {config: "policy: {}\n", want: Config{Name: "app", Gatehouse: "127.0.0.1:9191", MaxBody: 65536, Timeout: 250 * time.Millisecond,
			IdentityHeaders: []string{"x-auth-subject", "x-auth-roles"}}},
		"socket and headers": {config: "listen: {grpc: [\":9191\", \"unix:/run/g.sock\"]}\nheaders: {email: X-Mail, properties: {x-team: team}}\npolicy: {decision: shop/allow, timeout: 1s}\n",
			want: Config{Name: "shop", Gatehouse: "unix:/run/g.sock", MaxBody: 65536, Timeout: 1150 * time.Millisecond,
				IdentityHeaders: []string{"x-auth-subject", "x-auth-roles", "x-mail", "x-team"}}},
		"over HTTP": {config: "listen: {grpc: [], http: {address: \"0.0.0.0:9193\", proxy: envoy, path_prefix: /authz}}\nheaders: {remove_credential: true}\nidentity: {api_keys: {file: k.yaml, header: X-Key}}\n",
			want: Config{Name: "app", Gatehouse: "127.0.0.1:9193", HTTP: &HTTP{PathPrefix: "/authz"}, MaxBody: 65536, Timeout: 250 * time.Millisecond,
				IdentityHeaders: []string{"x-auth-subject", "x-auth-roles"}, CredentialHeaders: []string{"authorization", "cookie", "sec-websocket-protocol", "x-key"}}},
		"for nginx alone": {config: "listen: {grpc: [], http: {address: \":9193\", proxy: nginx}}\n", err: "Envoy could ask nowhere"},
		"routes": {config: "routes: {file: routes.yaml}\n",
			table: "framework: fastapi\nroutes:\n  - route: WEBSOCKET /chat\n  - route: POST /upload\n    body: ignore\n  - route: POST /upload/{id}\n    body: ignore\n",
			want: Config{Name: "app", Gatehouse: "127.0.0.1:9191", MaxBody: 65536, Timeout: 250 * time.Millisecond, Websockets: true,
				Streams: []Stream{{"path", "/upload"}}, IdentityHeaders: []string{"x-auth-subject", "x-auth-roles"}}},
		"one of several":  {config: "apps: [{name: shop}, {name: wiki}]\n", app: "wiki", want: Config{Name: "wiki", ContextApp: "wiki", Gatehouse: "127.0.0.1:9191", MaxBody: 65536, Timeout: 250 * time.Millisecond, IdentityHeaders: []string{"x-auth-subject", "x-auth-roles"}}},
		"none of several": {config: "apps: [{name: shop}, {name: wiki}]\n", err: `app "" is none of shop, wiki`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := FromConfig(read(t, tc.config, tc.table), tc.app)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for want, c := range map[string]Config{
		`listen: "8080" is not host:port`:                     {Listen: "8080"},
		`listen: "localhost" is no address`:                   {Listen: "localhost:8080"},
		`the application: "app:http" is not host:port`:        {App: "app:http"},
		`the application: "unix:/a.sock": host:port`:          {App: "unix:/a.sock"},
		`"a}, b: {" has characters that do not go`:            {Name: "a}, b: {"},
		`header x: y: "x: y" has characters`:                  {IdentityHeaders: []string{"x: y"}},
		"a certificate and its key go together":               {Cert: "tls.crt"},
		"clients show certificates where TLS is spoken":       {ClientCA: "ca.crt"},
		"there is no TLS on a unix socket":                    {Gatehouse: "unix:/g.sock", GatehouseCA: "ca.crt"},
		"listen.tls: Gatehouse speaks TLS":                    {TLS: true},
		"Gatehouse wants Envoy's certificate":                 {TLS: true, MTLS: true, GatehouseCA: "ca.crt"},
		"health checks are for gRPC":                          {HTTP: &HTTP{}, HealthChecks: true},
		`stream "chat": a path begins with a slash`:           {Streams: []Stream{{"prefix", "chat"}}},
		"-1 bytes of a body are less than none":               {MaxBody: -1},
		`Gatehouse: "gate house" is no address`:               {Gatehouse: "gate house:1"},
		`stream /a b: "/a b" has characters that do not go`:   {Streams: []Stream{{"path", "/a b"}}},
		`path prefix: "/a, b" has characters that do not go `: {HTTP: &HTTP{PathPrefix: "/a, b"}},
	} {
		if _, err := c.YAML(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// FuzzYAML: whatever is given, what is made is YAML with the same keys, or an error.
func FuzzYAML(f *testing.F) {
	f.Add("app", "127.0.0.1:8080", "app:8000", "unix:/g.sock", "x-auth-subject", "/chat/")
	f.Add("a: b", "[::1]:80", "10.0.0.1:1", "g.ns.svc:9191", "x", "/{")
	f.Fuzz(func(t *testing.T, name, listen, app, gatehouse, header, stream string) {
		c := Config{Name: name, Listen: listen, App: app, Gatehouse: gatehouse, IdentityHeaders: []string{header}, Streams: []Stream{{"prefix", stream}}, MaxBody: 1}
		text, err := c.YAML()
		if err != nil {
			return
		}
		var doc map[string]any
		if err := yaml.Unmarshal(text, &doc); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(doc) != 3 {
			t.Fatalf("keys were added:\n%s", text)
		}
	})
}
