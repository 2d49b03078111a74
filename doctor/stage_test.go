package doctor_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/children"
	"gatehouse/envoy/sandbox"
	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
)

// rego is the policy of the proofs: what is not public or asked for in a certain way is denied.
const rego = `package envoy.authz

http := input.attributes.request.http

allow if startswith(http.path, "/public")

allow if { http.path == "/me"; input.identity.subject }

allow if { http.path == "/key"; http.headers["x-key"] == "good" }

allow if { http.path == "/body"; base64.decode(http.rawBody) == "a!b" }

allow if { http.path == "/body"; http.body == "a!b" }

allow if { http.path == "/source"; http.headers["x-forwarded-for"] == "10.9.9.9" }

allow if { http.path == "/cert"; contains(http.headers["x-forwarded-client-cert"], "admin") }

allow if { http.path == "/ws"; not http.headers.upgrade }

allow if { http.path == "/upgrade"; http.headers.upgrade }

allow if http.method == "CONNECT"

allow if { http.path == "/area"; input.attributes.contextExtensions.area == "public" }

allow := {"allowed": true, "headers": {"x-tier": "gold"}} if { http.path == "/tier"; input.attributes.contextExtensions.area == "public" }

allow if { http.path == "/slow"; count([x | some x in numbers.range(1, 20000); x % 7 == 3]) > 1 }
`

// stage is what stands around the Envoy of the proofs: applications, and several real Gatehouses.
type stage struct {
	dir, envoy string
	ports      map[int]int // of the configurations, to those of this run
	token      string      // of alice
	jwks       string
	stalls     *relay
	holds      *relay
	taps       *relay
	encrypted  *relay
}

// withEnvoy is a stage with nothing else on it.
func withEnvoy(t *testing.T) *stage {
	t.Helper()
	envoy, err := sandbox.Prepare(t.Context(), "..", func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	return &stage{dir: t.TempDir(), envoy: envoy, ports: map[int]int{8080: 0, 9: 9}}
}

func setUp(t *testing.T) *stage {
	t.Helper()
	s := withEnvoy(t)
	s.ports[8000] = application(t, "app")
	s.ports[8001] = application(t, "private")
	verifier, keys := s.issuer(t, "")
	set := func(change func(*gate.Settings)) gate.Part {
		settings := gatetest.Settings()
		settings.Verifier, settings.ManageHeaders, settings.Timeout = verifier, true, 30*time.Second
		change(settings)
		if err := settings.Validate(); err != nil {
			t.Fatal(err)
		}
		policy := gatetest.Policy(t, rego)
		return func(v *gate.View) { v.Settings, v.Policy, v.Keys = settings, policy, keys }
	}
	plain := set(func(*gate.Settings) {})
	main := gatetest.Start(t, gate.Config{}, plain)
	s.ports[9191] = serveGRPC(t, main)
	s.ports[9192] = serveGRPC(t, gatetest.Start(t, gate.Config{}, set(func(g *gate.Settings) { g.Paths.Compat = true })))
	s.ports[9193] = serveHTTP(t, main)
	s.ports[9197] = serveGRPC(t, gatetest.Start(t, gate.Config{}, set(func(g *gate.Settings) { g.DryRunExtension = true })))
	trusting, trustedKeys := s.verifier(t, identity.Config{Metadata: "payload"})
	s.ports[9198] = serveGRPC(t, gatetest.Start(t, gate.Config{}, set(func(g *gate.Settings) { g.Verifier = trusting }), func(v *gate.View) { v.Keys = trustedKeys }))
	allowing := gatetest.Start(t, gate.Config{}, gatetest.With(t, gatetest.Settings(), gatetest.Policy(t, gatetest.AllowAll)))
	s.ports[9199] = serveGRPC(t, allowing)
	s.stalls, s.holds, s.taps = newRelay(t, s.ports[9191]), newRelay(t, s.ports[9191]), newRelay(t, s.ports[9191])
	certificate, another := s.certificate(t, "ca"), s.certificate(t, "another")
	s.encrypted = newRelay(t, serveGRPC(t, main, grpc.Creds(credentials.NewServerTLSFromCert(&certificate))))
	s.ports[9204] = serveGRPC(t, allowing, grpc.Creds(credentials.NewServerTLSFromCert(&another))) // which is not Gatehouse
	s.ports[9195], s.ports[9203], s.ports[9200], s.ports[9202] = s.stalls.port, s.holds.port, s.taps.port, s.encrypted.port
	admin, err := children.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	s.ports[9901] = admin // Envoy's own
	silent := listen(t)
	s.ports[9196] = portOf(silent)
	return s
}

// issuer makes keys and a token of alice.
func (s *stage) issuer(t *testing.T, metadata string) (*identity.Verifier, *identity.Keys) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	s.jwks = fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"1","x":%q}]}`, encode(public))
	claims := fmt.Sprintf(`{"iss":"https://login.example.com","aud":"app","sub":"alice","roles":["viewer"],"exp":%d}`, time.Now().Add(time.Hour).Unix())
	signed := encode([]byte(`{"alg":"EdDSA","kid":"1"}`)) + "." + encode([]byte(claims))
	s.token = signed + "." + encode(ed25519.Sign(private, []byte(signed)))
	file := filepath.Join(s.dir, "jwks.json")
	if err := os.WriteFile(file, []byte(s.jwks), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.verifier(t, identity.Config{Metadata: metadata, Issuers: []identity.Issuer{{Issuer: "https://login.example.com", Audiences: []string{"app"}, Keys: identity.KeySource{File: file}}}})
}

func (s *stage) verifier(t *testing.T, c identity.Config) (*identity.Verifier, *identity.Keys) {
	t.Helper()
	v, err := identity.New(c)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := v.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v, keys
}

// certificate makes one for the name gatehouse, and files with it and its key.
func (s *stage) certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"gatehouse"}, IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: raw}, name + "-key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(s.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: private}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func serveGRPC(t *testing.T, g *gate.Gate, options ...grpc.ServerOption) int {
	t.Helper()
	server := grpc.NewServer(append(extauthz.ServerOptions(), options...)...)
	extauthz.New(g, nil).Register(server)
	l := listen(t)
	var ended sync.WaitGroup
	ended.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { server.Stop(); ended.Wait() })
	return portOf(l)
}

func serveHTTP(t *testing.T, g *gate.Gate) int {
	t.Helper()
	h, err := extauthz.NewHTTP(g, extauthz.HTTPConfig{Proxy: extauthz.ProxyEnvoy})
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, h.Server())
}

func serve(t *testing.T, server *http.Server) int {
	t.Helper()
	l := listen(t)
	var ended sync.WaitGroup
	ended.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { server.Close(); ended.Wait() })
	return portOf(l)
}

// application answers with its name, the path as a framework reads it, and whom it takes for the caller. It switches to whatever it is asked to, and
// then answers each line with its name.
func application(t *testing.T, name string) int {
	return serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := r.Header.Get("X-Auth-Subject")
		for key, values := range r.Header { // as WSGI does
			if strings.EqualFold(strings.ReplaceAll(key, "_", "-"), "x-auth-subject") && strings.Contains(key, "_") {
				caller = values[0]
			}
		}
		if kind := r.Header.Get("Upgrade"); kind != "" || r.Method == http.MethodConnect {
			conn, both, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			if kind == "" {
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
			} else {
				fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: %s\r\nConnection: Upgrade\r\nX-App: %s\r\n\r\n", kind, name)
			}
			if line, err := both.ReadString('\n'); err == nil {
				fmt.Fprintf(conn, "%s got %s", name, line)
			}
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-App", name)
		w.Header().Set("Cache-Control", "max-age=60")
		said := name + " " + path.Clean(r.URL.Path)
		if caller != "" {
			said += " as " + caller
		}
		if len(body) > 0 && len(body) < 10 {
			said += fmt.Sprintf(" body %q", body)
		}
		fmt.Fprint(w, said)
	})})
}

// relay hands bytes on to a port, and can stop doing so.
type relay struct {
	port int
	to   string

	mu     sync.Mutex // guards what follows
	epoch  int        // connections of an earlier one hand nothing on
	held   chan struct{}
	seen   []byte
	opened int
}

func newRelay(t *testing.T, to int) *relay {
	t.Helper()
	l := listen(t)
	r := &relay{port: portOf(l), to: fmt.Sprintf("127.0.0.1:%d", to)}
	var ended sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	ended.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", r.to)
			if err != nil {
				in.Close()
				continue
			}
			r.mu.Lock()
			epoch := r.epoch
			r.opened++
			r.mu.Unlock()
			ended.Go(func() { <-ctx.Done(); in.Close(); out.Close() })
			ended.Go(func() { r.copy(ctx, out, in, epoch, false) })
			ended.Go(func() { r.copy(ctx, in, out, epoch, true) })
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); ended.Wait() })
	return r
}

func (r *relay) copy(ctx context.Context, to, from net.Conn, epoch int, answers bool) {
	for buffer := make([]byte, 32<<10); ; {
		n, err := from.Read(buffer)
		if err != nil {
			to.Close()
			return
		}
		r.mu.Lock()
		dead, held := r.epoch != epoch, r.held
		r.seen = append(r.seen, buffer[:n]...)
		r.mu.Unlock()
		if dead {
			continue
		}
		if answers && held != nil {
			select {
			case <-held:
			case <-ctx.Done():
			}
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// stall makes all connections that are open as dead as those of a machine that lost its power.
func (r *relay) stall() { r.mu.Lock(); defer r.mu.Unlock(); r.epoch++ }

// hold keeps answers back until release.
func (r *relay) hold() (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := make(chan struct{})
	r.held = held
	return func() { r.mu.Lock(); r.held = nil; r.mu.Unlock(); close(held) }
}

func (r *relay) saw(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(string(r.seen), text)
}

// house is one Envoy that carries the listeners of many configurations.
type house struct {
	*stage
	admin     string
	bootstrap map[string]any
	layers    []any
	doors     map[string]string // of listeners: the name with the configuration's in front
}

func (s *stage) newHouse() *house { return &house{stage: s, doors: map[string]string{}} }

// add takes over the listeners and clusters of a configuration, under names of their own.
func (h *house) add(t *testing.T, prefix string, text []byte) {
	t.Helper()
	var config struct {
		StaticResources struct {
			Listeners []any `yaml:"listeners"`
			Clusters  []any `yaml:"clusters"`
		} `yaml:"static_resources"`
		LayeredRuntime struct {
			Layers []any `yaml:"layers"`
		} `yaml:"layered_runtime"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatalf("%s: %v\n%s", prefix, err, text)
	}
	names := map[string]bool{}
	for _, c := range config.StaticResources.Clusters {
		names[c.(map[string]any)["name"].(string)] = true
	}
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case []any:
			for i := range v {
				v[i] = walk(v[i])
			}
		case map[string]any:
			for key, value := range v {
				text, _ := value.(string)
				port, _ := value.(int)
				isListener := v["filter_chains"] != nil || v["default_filter_chain"] != nil
				_, isCluster := v["connect_timeout"]
				switch {
				case (key == "cluster" || key == "cluster_name") && names[text], key == "name" && (isListener || isCluster || v["weight"] != nil):
					v[key] = prefix + text
				case key == "clusters" && strings.HasSuffix(fmt.Sprint(v["@type"]), ".aggregate.v3.ClusterConfig"):
					for i, member := range value.([]any) {
						value.([]any)[i] = prefix + fmt.Sprint(member)
					}
				case key == "inline_string" && names[text]:
					v[key] = prefix + text
				case key == "target_uri":
					_, at, _ := strings.Cut(text, ":")
					number, _ := strconv.Atoi(at)
					v[key] = fmt.Sprintf("127.0.0.1:%d", h.ports[number])
				case key == "port_value":
					to, ok := h.ports[port]
					if !ok {
						t.Fatalf("%s: nothing is at port %d", prefix, port)
					}
					v[key], v["address"] = to, "127.0.0.1"
				case text == "JWKS":
					v[key] = h.jwks
				case text == "CA":
					v[key] = filepath.Join(h.dir, "ca.pem")
				case text == "KEY":
					v[key] = filepath.Join(h.dir, "ca-key.pem")
				case text == "Bearer ALICE":
					v[key] = "Bearer " + h.token
				default:
					v[key] = walk(value)
				}
			}
		}
		return v
	}
	if h.bootstrap == nil {
		h.bootstrap = map[string]any{"listeners": []any{}, "clusters": []any{}}
	}
	h.bootstrap["listeners"] = append(h.bootstrap["listeners"].([]any), walk(config.StaticResources.Listeners).([]any)...)
	h.bootstrap["clusters"] = append(h.bootstrap["clusters"].([]any), walk(config.StaticResources.Clusters).([]any)...)
	for i, layer := range config.LayeredRuntime.Layers {
		layer.(map[string]any)["name"] = fmt.Sprint(prefix, i)
		h.layers = append(h.layers, layer)
	}
}

// open starts Envoy and learns where its listeners are.
func (h *house) open(t *testing.T) {
	t.Helper()
	file := filepath.Join(h.dir, "envoy.json")
	addresses := filepath.Join(h.dir, "admin")
	_ = os.Remove(addresses) // of one that ran before
	config := map[string]any{"admin": map[string]any{"address": map[string]any{"socket_address": map[string]any{"address": "127.0.0.1", "port_value": h.ports[9901]}}},
		"static_resources": h.bootstrap, "layered_runtime": map[string]any{"layers": append(h.layers, map[string]any{"name": "admin", "admin_layer": map[string]any{}})}}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	process := exec.Command(h.envoy, "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--admin-address-path", addresses)
	log := &strings.Builder{}
	process.Stderr = log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = process.Wait() }()
	t.Cleanup(func() {
		_ = process.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("envoy: %s", log.String()[max(0, log.Len()-8000):])
		}
	})
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-ended:
			t.Fatalf("envoy ended: %s", log.String()[max(0, log.Len()-4000):])
		case <-tick.C:
		}
		at, err := os.ReadFile(addresses)
		if err != nil || len(at) == 0 {
			continue
		}
		h.admin = string(at)
		var listeners struct {
			Statuses []struct {
				Name    string `json:"name"`
				Address struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		if h.page("/ready") != "LIVE\n" || json.Unmarshal([]byte(h.page("/listeners?format=json")), &listeners) != nil {
			continue
		}
		tick.Stop()
		for _, l := range listeners.Statuses {
			h.doors[l.Name] = fmt.Sprintf("127.0.0.1:%d", l.Address.Socket.Port)
		}
		return
	}
}

func (h *house) page(path string) string {
	resp, err := http.Get("http://" + h.admin + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

// doors are the listeners of one configuration.
type doors struct {
	*house
	t      *testing.T
	prefix string
}

// ask sends "METHOD target" with header lines to a listener, byte for byte, and says who answered: the application's own words, or a status.
func (d doors) ask(listener, request string, headers ...string) string {
	d.t.Helper()
	body := ""
	if n := len(headers); n > 0 && !strings.Contains(headers[n-1], ": ") {
		body = headers[n-1]
		headers = append(headers[:n-1:n-1], fmt.Sprintf("Content-Length: %d", len(body)))
	}
	conn := d.dial(listener)
	if conn == nil {
		return "nobody listens"
	}
	return d.askOn(conn, request, body, headers...)
}

// named asks by TLS, for a server name.
func (d doors) named(listener, name, request string) string {
	d.t.Helper()
	conn := d.dial(listener)
	if conn == nil {
		return "nobody listens"
	}
	return d.askOn(tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true}), request, "")
}

func (d doors) askOn(conn net.Conn, request, body string, headers ...string) string {
	defer conn.Close()
	lines := append([]string{request + " HTTP/1.1", "Host: app", "Connection: close"}, headers...)
	go io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"+body) // an answer may come before the end
	return d.answer(bufio.NewReader(conn))
}

func (d doors) dial(listener string) net.Conn {
	at, ok := d.doors[d.prefix+listener]
	if !ok {
		return nil
	}
	conn, err := net.Dial("tcp", at)
	if err != nil {
		d.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

func (d doors) answer(r *bufio.Reader) string {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return "no answer"
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.Header.Get("X-App") != "" {
		return string(text)
	}
	if to := resp.Header.Get("Location"); to != "" {
		return fmt.Sprintf("%d to %s", resp.StatusCode, to)
	}
	return fmt.Sprint(resp.StatusCode)
}

// through asks for another protocol, and then says a line in it.
func (d doors) through(listener string, lines ...string) string {
	d.t.Helper()
	conn := d.dial(listener)
	if conn == nil {
		return "nobody listens"
	}
	defer conn.Close()
	fmt.Fprint(conn, strings.Join(lines, "\r\n")+"\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, &http.Request{Method: strings.Fields(lines[0])[0]})
	if err != nil {
		return "no answer"
	}
	if resp.StatusCode != 101 && resp.StatusCode != 200 {
		return fmt.Sprint(resp.StatusCode)
	}
	fmt.Fprint(conn, "GET /admin\n")
	line, _ := r.ReadString('\n')
	return strings.TrimSpace(line)
}

// protobufStruct is what a client puts into the metadata of jwt_authn where a filter lets it.
func protobufStruct() string {
	value, err := structpb.NewStruct(map[string]any{"iss": "https://login.example.com", "aud": "app", "sub": "root", "exp": float64(time.Now().Add(time.Hour).Unix())})
	if err != nil {
		panic(err)
	}
	raw, err := proto.Marshal(structpb.NewStructValue(value))
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(raw)
}
