//go:build module

// Package inenvoy_test runs libgatehouse.so in a real Envoy, beside a gatehouse serve that the same Envoy asks over gRPC: make test-module.
package inenvoy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatehouse/children"
	"gatehouse/envoy/sandbox"
)

// root is the checkout, as seen from this package's folder.
const root = "../.."

// hangGuard is longer than anything takes that is not broken.
const hangGuard = time.Minute

// What TestMain prepares.
var module, gatehouse, envoy string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "gatehouse-module-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if module, err = built("GATEHOUSE_MODULE", filepath.Join(dir, "libgatehouse.so"), "-buildmode=c-shared", "./cmd/envoymodule"); err != nil {
		return 0, err
	}
	if gatehouse, err = built("GATEHOUSE_BINARY", filepath.Join(dir, "gatehouse"), "./cmd/gatehouse"); err != nil {
		return 0, err
	}
	if envoy, err = sandbox.Prepare(context.Background(), root, func(s string) { fmt.Fprintln(os.Stderr, s) }); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// built is what an environment variable names, or else what is built now.
func built(variable, into string, args ...string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		return filepath.Abs(path)
	}
	build := exec.Command("go", append([]string{"build", "-o", into}, args...)...)
	build.Dir, build.Stdout, build.Stderr = root, os.Stderr, os.Stderr
	return into, build.Run()
}

// side is one of the two ways to the gate: the module, or a server over gRPC.
type side struct {
	name, dir   string
	admin, grpc int
	ports       map[string]int // of Envoy's listeners, by variant
}

// variant is how a pair of listeners is configured.
type variant struct {
	name   string
	filter string // of ext_authz, and of the module, in YAML
	more   string // of the module alone
	tls    bool
}

// world is one Envoy with two listeners for each variant, and what is behind and beside it.
type world struct {
	dir      string
	module   side
	server   side
	variants []variant
	up       *httptest.Server
	envoy    *children.Child
	log      string // of Envoy
	admin    int
	dynamic  bool // listeners are in a file that update writes
}

// start brings a world up. config is gatehouse.yaml without listen and decision_log.
func start(t *testing.T, config string, policy map[string]string, variants []variant, changes ...func(*world)) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), variants: variants, up: httptest.NewServer(http.HandlerFunc(echo)), admin: port(t)}
	t.Cleanup(w.up.Close)
	for _, s := range []*side{&w.module, &w.server} {
		s.name = map[bool]string{true: "module", false: "server"}[s == &w.module]
		s.dir, s.admin, s.grpc, s.ports = filepath.Join(w.dir, s.name), port(t), port(t), map[string]int{}
		for file, text := range policy {
			write(t, filepath.Join(s.dir, "policy", file), text)
		}
		write(t, filepath.Join(s.dir, "gatehouse.yaml"), fmt.Sprintf(`state_dir: state
listen:
  grpc: ["127.0.0.1:%d"]
  admin: "127.0.0.1:%d"
  control: unix:control.sock
decision_log: {file: decisions.jsonl}
%s`, s.grpc, s.admin, config))
		for _, v := range variants {
			s.ports[v.name] = port(t)
		}
	}
	for _, change := range changes {
		change(w)
	}
	write(t, filepath.Join(w.dir, "envoy.yaml"), w.config())
	if w.dynamic {
		w.update(t)
	}
	_, _ = child(t, "server", w.server.dir, gatehouse, "serve", "--config", "gatehouse.yaml")
	await(t, w.server.admin, "/readyz")
	w.startEnvoy(t)
	return w
}

func (w *world) startEnvoy(t *testing.T, more ...string) {
	t.Helper()
	w.envoy, w.log = child(t, "envoy", w.dir, append([]string{envoy, "-c", "envoy.yaml", "--concurrency", "2", "--disable-hot-restart", "-l", "warning", "--file-flush-interval-msec", "100"}, more...)...)
	running, log := w.envoy, w.log
	t.Cleanup(func() {
		if state := running.State(); state != nil && state.Exited() { // not killed by the test
			t.Errorf("Envoy ended: %v", state)
		}
		text, _ := os.ReadFile(log)
		for _, bad := range []string{"panic", "SIGSEGV", "assert failure", "Caught Segmentation"} {
			if strings.Contains(string(text), bad) {
				t.Errorf("Envoy logged %q", bad)
			}
		}
		if t.Failed() {
			t.Logf("Envoy:\n%s", tail(string(text)))
		}
	})
	await(t, w.module.admin, "/readyz")
	await(t, w.admin, "/ready")
}

func tail(s string) string { return s[max(0, len(s)-6000):] }

// port is a free one.
func port(t *testing.T) int {
	t.Helper()
	p, err := children.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// child starts a program that ends with the test.
func child(t *testing.T, name, dir string, argv ...string) (*children.Child, string) {
	t.Helper()
	log := filepath.Join(dir, name+".log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c, err := children.Start(children.Command{Name: name, Argv: argv, Dir: dir, Output: out,
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "ENVOY_DYNAMIC_MODULES_SEARCH_PATH=" + filepath.Dir(module), "GOTRACEBACK=all"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
	})
	return c, log
}

// await waits until an admin port says that it is ready.
func await(t *testing.T, admin int, page string) {
	t.Helper()
	eventually(t, "ready", func() error {
		resp, err := http.Get("http://" + children.Loopback(admin) + page)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(hangGuard)
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// echo answers with all that it got.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	seen := struct {
		Method, URI, Host string
		Header            http.Header
		Trailer           http.Header
		Body              []byte
		Err               string
	}{r.Method, r.RequestURI, r.Host, r.Header, r.Trailer, body, fmt.Sprint(err)}
	delete(seen.Header, "X-Request-Id")
	delete(seen.Header, "X-Envoy-Expected-Rq-Timeout-Ms")
	w.Header().Set("x-app", "1")
	w.Header().Add("x-twice", "a")
	w.Header().Add("x-twice", "b")
	w.Header().Set("date", "x")
	text, _ := json.Marshal(seen)
	_, _ = w.Write(text)
}

// listeners are those of all variants, in YAML.
func (w *world) listeners() string {
	var out strings.Builder
	for _, v := range w.variants {
		ext := strings.TrimSpace(v.filter)
		if ext != "" {
			ext += ", "
		}
		out.WriteString(w.listener(v, "server", w.server.ports[v.name], fmt.Sprintf(`{name: envoy.filters.http.ext_authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz,
            transport_api_version: V3, %s grpc_service: {envoy_grpc: {cluster_name: gatehouse}, timeout: 10s}}}`, ext)))
		out.WriteString(w.listener(v, "module", w.module.ports[v.name], fmt.Sprintf(`{name: gatehouse, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter,
            dynamic_module_config: {name: gatehouse, do_not_close: true}, filter_name: gatehouse,
            filter_config: {"@type": type.googleapis.com/google.protobuf.Struct, value: {config: module/gatehouse.yaml, %s %s timeout: 10s}}}}`, ext, v.more)))
	}
	return out.String()
}

// config is envoy.yaml.
func (w *world) config() string {
	var out strings.Builder
	fmt.Fprintf(&out, "admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}\n", w.admin)
	if w.dynamic {
		fmt.Fprintf(&out, "node: {id: test, cluster: test}\ndynamic_resources: {lds_config: {path_config_source: {path: %q}}}\nstatic_resources:\n", filepath.Join(w.dir, "lds.yaml"))
	} else {
		out.WriteString("static_resources:\n  listeners:\n" + strings.ReplaceAll(w.listeners(), "LISTENER", "name: "))
	}
	cluster := func(name, more string, port int) {
		fmt.Fprintf(&out, `  - {name: %s, type: STATIC, %s load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}}
`, name, more, name, port)
	}
	out.WriteString("  clusters:\n")
	_, at, _ := net.SplitHostPort(w.up.Listener.Addr().String())
	var app int
	fmt.Sscan(at, &app)
	cluster("app", "", app)
	cluster("gatehouse", `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}},`, w.server.grpc)
	return out.String()
}

func (w *world) listener(v variant, name string, port int, filter string) string {
	return fmt.Sprintf(`  - LISTENER%[1]s-%[2]s
    address: {socket_address: {address: 127.0.0.1, port_value: %[3]d}}
    listener_filters: [{name: inspector, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]
    filter_chains:
    - %[5]sfilters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          codec_type: AUTO
          generate_request_id: false
          http_protocol_options: {enable_trailers: true, accept_http_10: true}
          upgrade_configs: [{upgrade_type: websocket}]
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: access-%[1]s-%[2]s.log
              log_format: {json_format: {code: "%%RESPONSE_CODE%%", metadata: "%%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%%", path: "%%REQ(:path)%%"}}
          route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [
            {match: {prefix: /route/}, route: {cluster: app}, typed_per_filter_config: {
              envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, check_settings: {context_extensions: {of: route, route: "1"}, disable_request_body_buffering: true}},
              gatehouse: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute, dynamic_module_config: {name: gatehouse, do_not_close: true}, filter_name: gatehouse,
                filter_config: {"@type": type.googleapis.com/google.protobuf.Struct, value: {context_extensions: {of: route, route: "1"}, disable_request_body_buffering: true}}}}},
            {match: {prefix: /, headers: [{name: x-auth-subject, string_match: {exact: nobody}}]}, direct_response: {status: 418}},
            {match: {prefix: /}, route: {cluster: app}}]}]}
          http_filters:
          - %[4]s
          - {name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
`, v.name, name, port, filter, map[bool]string{true: tlsContext}[v.tls])
}

const tlsContext = `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
        common_tls_context: {tls_certificates: [{certificate_chain: {filename: cert.pem}, private_key: {filename: key.pem}}],
          validation_context: {trusted_ca: {filename: ca.pem}}}}}
      `

// answer is what a client got.
type answer struct {
	Status int
	Header http.Header
	Body   string
	Err    string
}

// exchange sends bytes on a connection of its own, and reads one answer.
func exchange(port int, method, text string) (a answer) {
	c, err := net.DialTimeout("tcp", children.Loopback(port), 10*time.Second)
	if err != nil {
		return answer{Err: err.Error()}
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	go func() { _, _ = io.WriteString(c, text) }()
	return read(bufio.NewReader(c), method)
}

func read(r *bufio.Reader, method string) (a answer) {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return answer{Err: "no answer: " + err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		a.Err = err.Error()
	}
	a.Status, a.Header, a.Body = resp.StatusCode, resp.Header, string(body)
	delete(a.Header, "Date")
	delete(a.Header, "X-Envoy-Upstream-Service-Time")
	return a
}

func contents(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func output(dir string, argv ...string) (string, error) {
	c := exec.Command(argv[0], argv[1:]...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	return string(out), err
}

var policyTimeout = regexp.MustCompile(`timeout: [0-9]+m?s`)

func countLines(file string) (n int64) {
	text, err := os.ReadFile(file)
	if err != nil {
		return -1
	}
	return int64(bytes.Count(text, []byte("\n")))
}

// stat is one of Envoy's counters.
func (w *world) stat(t *testing.T, name string) (n int) {
	t.Helper()
	resp, err := http.Get("http://" + children.Loopback(w.admin) + "/stats?filter=^" + name + "$")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	_, value, _ := strings.Cut(string(body), ": ")
	_, _ = fmt.Sscan(value, &n)
	return n
}

// rss is Envoy's memory in bytes.
func (w *world) rss(t *testing.T) (bytes int) {
	t.Helper()
	for line := range strings.Lines(contents(t, fmt.Sprintf("/proc/%d/status", w.envoy.PID()))) {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			_, _ = fmt.Sscan(rest, &bytes)
		}
	}
	return bytes << 10
}

// update gives Envoy its listeners anew.
func (w *world) update(t *testing.T) {
	t.Helper()
	var out strings.Builder
	out.WriteString("resources:\n")
	for line := range strings.Lines(w.listeners()) {
		out.WriteString(strings.TrimPrefix(line, "  "))
	}
	text := strings.ReplaceAll(out.String(), "LISTENER", "\"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n  name: ")
	next := filepath.Join(w.dir, "lds.next")
	write(t, next, text)
	if err := os.Rename(next, filepath.Join(w.dir, "lds.yaml")); err != nil {
		t.Fatal(err)
	}
}
