package envoy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse/envoy/sandbox"
)

// routesPython is the interpreter that has every framework.
func routesPython(t *testing.T) string {
	t.Helper()
	python, err := sandbox.Frameworks(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return python
}

const byRule = `listen: {grpc: ["{GRPC}"], admin: "{ADMIN}"}
routes: {file: "{DIR}/routes.yaml", unmatched: policy}
policy: {timeout: 2s, root: app, bundles: [{name: all, path: "{DIR}/policy"}]}
`

// TestWebSocketsHaveRulesOfTheirOwn: behind a real Envoy that lets upgrades through, a WebSocket opens where its own rule allows, and
// not because a page with the same path is allowed; and the page is not served because the WebSocket is allowed.
func TestWebSocketsHaveRulesOfTheirOwn(t *testing.T) {
	t.Parallel()
	python := routesPython(t)
	abs := func(name string) string {
		dir, err := filepath.Abs(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	asgi, wsgi := abs("websocket"), abs("websocket")
	kinds := []struct {
		name, from, target string
		port               int
	}{
		{"starlette", "fastapi", "asgi:app", serve(t, "starlette", asgi, uvicorn(python, "asgi:app"))},
		{"flask", "flask", "wsgi:app", serve(t, "flask", wsgi, gunicorn(python, "wsgi:app"))},
		{"django-asgi", "django", "djangosettings", serve(t, "django", asgi, uvicorn(python, "djangosettings:application"))},
	}
	rules := map[string]string{
		"policy/all.rego":   "package app.GET.__path\nallowed := true\n",
		"policy/news.rego":  "package app.WEBSOCKET.ws.news\nallowed if input.route.method == \"WEBSOCKET\"\n",
		"policy/admin.rego": "package app.WEBSOCKET.ws.admin\ndefault allowed := false\n",
		"policy/page.rego":  "package app.GET.ws.news\ndefault allowed := false\n",
	}
	var doors []door
	for _, k := range kinds {
		table := filepath.Join(t.TempDir(), "routes.yaml")
		gatehouse(t, asgi, "routes", "import", k.from, k.target, "--python", python, "--out", table)
		files := map[string]string{"routes.yaml": read(t, table)}
		for name, text := range rules {
			files[name] = text
		}
		g := startGatehouse(t, "gatehouse-"+k.name, byRule, files)
		doors = append(doors, door{Port: freePort(t), App: k.port, Authz: []int{g.port},
			Manager: "upgrade_configs: [{upgrade_type: websocket}], http2_protocol_options: {allow_connect: true}"})
	}
	file := filepath.Join(withDoors(t, doors), "envoy.yaml")
	amend(t, file, "port_value: 9901}", fmt.Sprintf("port_value: %d}", freePort(t)))
	envoy := program(t, "envoy", filepath.Dir(file), []string{envoyBinary, "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"})
	if err := envoy.Ready(t.Context(), "http://"+at(doors[0].Port)+"/healthz"); err != nil {
		t.Fatal(err)
	}
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
	for i, k := range kinds {
		for _, tt := range []struct{ path, header, starlette, flask, django string }{
			{"/ws/news", "Upgrade: websocket\r\nConnection: Upgrade\r\n" + key, "101", "400 app", "101"},
			{"/ws/news", "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n" + key, "101", "400 app", "101"},
			{"/ws/admin", "Upgrade: websocket\r\nConnection: Upgrade\r\n" + key, "403", "403", "403"},
			{"/ws/admin", "Upgrade: WEBSOCKET\r\nConnection: upgrade\r\n" + key, "403", "403", "403"},
			{"/ws/other", "Upgrade: websocket\r\nConnection: Upgrade\r\n" + key, "403", "403", "403"},
			{"/ws/admin", "X-A: 1", "200 page", "200 page", "200 page"},
			{"/ws/other", "X-A: 1", "200 page", "200 page", "200 page"},
			{"/ws/news", "X-A: 1", "403", "403", "403"},
			{"/ws/admin", "Upgrade: websocket\r\n" + key, "400", "400", "400"},
			{"/ws/news", "Upgrade: websocket\r\n" + key, "400", "400", "400"},
			{"/ws/news", "Connection: Upgrade\r\n" + key, "400", "400", "400"},
		} {
			want := map[string]string{"starlette": tt.starlette, "flask": tt.flask, "django-asgi": tt.django}[k.name]
			if got := handshake(t, doors[i].Port, tt.path, tt.header); !strings.HasPrefix(got, want) {
				t.Errorf("%s %s %q: %q, want %q", k.name, tt.path, tt.header, got, want)
			}
		}
		if k.name == "flask" {
			continue
		}
		for path, want := range map[string]int{"/ws/news": 200, "/ws/admin": 403, "/ws/other": 403} {
			if got := extendedConnect(t, doors[i].Port, path); got != want {
				t.Errorf("%s, HTTP/2 %s: %d, want %d", k.name, path, got, want)
			}
		}
	}
}

// handshake sends a GET with header lines, and returns the status and what the application said of it.
func handshake(t *testing.T, port int, path, header string) string {
	t.Helper()
	conn, err := net.Dial("tcp", at(port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a.test\r\n%s\r\n\r\n", path, header)
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s %q: %v", path, header, err)
	}
	defer r.Body.Close()
	who := ""
	if r.Header.Get("X-App") != "" {
		who = " " + r.Header.Get("X-App")
	}
	return fmt.Sprint(r.StatusCode) + who
}

// extendedConnect opens a WebSocket over HTTP/2 (RFC 8441), and returns the status.
func extendedConnect(t *testing.T, port int, path string) int {
	t.Helper()
	conn, err := net.Dial("tcp", at(port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", path}, {":authority", "a.test"},
		{"sec-websocket-version", "13"}, {"sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			status := 0
			fmt.Sscan(f.PseudoValue("status"), &status)
			return status
		case *http2.RSTStreamFrame:
			t.Logf("%s: reset %s", path, f.ErrCode)
			return -1
		}
	}
}
