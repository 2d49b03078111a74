package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	yaml3 "go.yaml.in/yaml/v3"
)

// hole is one of doctor/testdata/*/holes.yaml, where it is said what the fields are.
type hole struct {
	ID             string
	Edits          []string
	ByMan          []string `yaml:"byMan"`
	Request, Door  string
	Headers        []string
	Body           yaml3.Node
	Token          bool
	Hole, Closed   string
	Dump, Unproven string
	Class, Down    bool
	OverHTTP       bool `yaml:"overHTTP"`
}

func readHoles(t *testing.T, folder string) (base string, all []hole) {
	t.Helper()
	dir := filepath.Join(root, "doctor/testdata", folder)
	text, err := os.ReadFile(filepath.Join(dir, "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(dir, "holes.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml3.Unmarshal(list, &all); err != nil {
		t.Fatal(err)
	}
	return string(text), all
}

func edit(t *testing.T, text string, edits []string) string {
	t.Helper()
	for i := 0; i+1 < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			t.Fatalf("there is no %q in\n%s", edits[i], text)
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

// holesTimeout is policy.timeout of the Gatehouse that the holes are tried with: far above what any of their decisions takes, and below the deadline of see.
const holesTimeout = 20 * time.Second

// mend is the text without the hole: by a person's edits, else as gatehouse doctor --fix prints it.
func (h hole) mend(t *testing.T, bad string) string {
	t.Helper()
	if h.ByMan != nil {
		return edit(t, bad, h.ByMan)
	}
	file := filepath.Join(t.TempDir(), "k8s.yaml")
	write(t, file, bad)
	args := []string{"doctor", "--fix", file}
	if h.ID == "timeout-below-policy" { // of a policy that may take long, so that no load of the machine decides whether the mended one waits long enough
		config := filepath.Join(t.TempDir(), "gatehouse.yaml")
		write(t, config, fmt.Sprintf("policy: {decision: envoy/authz/allow, path: ., timeout: %v}\n", holesTimeout))
		args = append(args, "--config", config)
	}
	c := exec.CommandContext(t.Context(), gatehouse, args...)
	var out, problems bytes.Buffer
	c.Stdout, c.Stderr = &out, &problems
	_ = c.Run() // 1 says that something was found
	if out.Len() == 0 {
		t.Fatalf("gatehouse doctor --fix: %s", &problems)
	}
	return out.String()
}

// body is what a request sends: a text, or as many bytes as the number says.
func (h hole) body(t *testing.T) string {
	t.Helper()
	var size int
	if h.Body.Tag == "!!int" && h.Body.Decode(&size) == nil {
		return strings.Repeat("x", size)
	}
	text := ""
	if h.Body.Kind != 0 {
		if err := h.Body.Decode(&text); err != nil {
			t.Fatal(err)
		}
	}
	return text
}

// see asks at a door, and says who answered.
func (h hole) see(t *testing.T, door, token string) string {
	t.Helper()
	if door == "" {
		return "nobody listens"
	}
	conn, err := net.Dial("tcp", door)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	headers := slices.Clone(h.Headers)
	if h.Token {
		headers = append(headers, "Authorization: Bearer "+token)
	}
	r := bufio.NewReader(conn)
	if target, ok := strings.CutPrefix(h.Request, "UPGRADE "); ok {
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: tunnel\r\n\r\n", target)
		res, err := http.ReadResponse(r, &http.Request{Method: "GET"})
		if err != nil {
			return "no answer"
		}
		if res.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Sprint(res.StatusCode)
		}
		fmt.Fprint(conn, "GET /admin\n")
		line, _ := r.ReadString('\n')
		return strings.TrimSpace(line)
	}
	body := h.body(t)
	if body != "" {
		headers = append(headers, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	lines := append([]string{h.Request + " HTTP/1.1", "Host: app", "Connection: close"}, headers...)
	go io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"+body) // an answer may come before the end
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return "no answer"
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	switch to := res.Header.Get("Location"); {
	case res.Header.Get("X-App") != "":
		return string(text)
	case to != "":
		return fmt.Sprintf("%d to %s", res.StatusCode, to)
	}
	return fmt.Sprint(res.StatusCode)
}

// echo is an application that answers with its name, the path as a framework reads it, whom it takes for the caller, and a short body. It switches to whatever it
// is asked to, and then answers a line with it.
func echo(t *testing.T, name string) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if kind := r.Header.Get("Upgrade"); kind != "" {
			conn, both, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: %s\r\nConnection: Upgrade\r\n\r\n", kind)
			if line, err := both.ReadString('\n'); err == nil {
				fmt.Fprintf(conn, "%s got %s", name, line)
			}
			return
		}
		answer := name + " " + path.Clean(r.URL.Path)
		caller := r.Header.Get("X-Auth-Subject")
		for key, values := range r.Header { // as WSGI reads it
			if strings.Contains(key, "_") && strings.EqualFold(strings.ReplaceAll(key, "_", "-"), "x-auth-subject") {
				caller = values[0]
			}
		}
		if caller != "" {
			answer += " as " + caller
		}
		if body, _ := io.ReadAll(r.Body); len(body) > 0 && len(body) < 10 {
			answer += fmt.Sprintf(" body %q", body)
		}
		w.Header().Set("X-App", name)
		fmt.Fprint(w, answer)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// strict is the Gatehouse of the holes, with a policy for them. It gives the ports of gRPC and HTTP, and a token of alice.
func strict(t *testing.T) (grpc, overHTTP int, bearer string) {
	t.Helper()
	dir := t.TempDir()
	grpc, overHTTP, admin := free(t), free(t), free(t)
	write(t, filepath.Join(dir, "gatehouse.yaml"), fmt.Sprintf(`
listen: {grpc: ["127.0.0.1:%d"], http: {address: "127.0.0.1:%d", proxy: envoy}, admin: "127.0.0.1:%d"}
identity: {jwt: [{issuer: "http://localhost/issuer", audiences: [app], keys: {file: jwks.json}}]}
headers: {subject: x-auth-subject}
policy: {decision: envoy/authz/allow, bundles: [{name: holes, path: ./policy}], timeout: %v}
decision_log: {file: decisions.log}
`, grpc, overHTTP, admin, holesTimeout))
	if err := os.Mkdir(filepath.Join(dir, "policy"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "policy", "holes.rego"), `package envoy.authz

request := input.attributes.request.http

allow if startswith(request.path, "/public")

allow if { request.path == "/me"; input.identity.subject }

allow if { request.path == "/body"; request.body == "a!b" }

allow if { request.path == "/upgrade"; request.headers.upgrade == "tunnel" }

allow := {"allowed": true, "headers": {"x-tier": "gold"}} if { request.path == "/tier"; input.attributes.contextExtensions.area == "public" }

allow if { request.path == "/slow"; count([n | some n in numbers.range(1, 20000); n % 7 == 3]) > 1 }
`)
	bearer = token(t, dir, "alice")
	process(t, dir, gatehouse, "serve", "--config", "gatehouse.yaml")
	until(t, fmt.Sprintf("http://127.0.0.1:%d/readyz", admin), nil, 200)
	return grpc, overHTTP, bearer
}

// compare sees a hole and that it is closed.
func (h hole) compare(t *testing.T, c *carrier, bad, good, bearer string) {
	t.Helper()
	if got := h.see(t, c.doors[bad], bearer); got != h.Hole {
		t.Errorf("with the hole: %q, want %q", got, h.Hole)
	}
	if got := h.see(t, c.doors[good], bearer); got != h.Closed {
		t.Errorf("mended: %q, want %q", got, h.Closed)
	}
}

// TestEnvoyGatewayHoles sees what the doctor finds in objects of Envoy Gateway in a real Envoy with what Envoy Gateway makes of them, and that each hole is closed
// once it is mended.
func TestEnvoyGatewayHoles(t *testing.T) {
	base, all := readHoles(t, "envoygateway")
	places := at{"10.0.0.7:8000": echo(t, "app"), "10.0.0.8:8001": echo(t, "private")}
	grpc, overHTTP, bearer := strict(t)
	places["/run/gatehouse/gatehouse.sock"], places["/run/gatehouse/http.sock"] = grpc, overHTTP
	inNamespace := func(text, namespace string) string {
		return "---\n" + strings.NewReplacer("namespace: shop", "namespace: "+namespace, "shop/edge", namespace+"/edge").Replace(text) + "\n" +
			service("orders", namespace, "10.0.0.7", 8000) + service("private", namespace, "10.0.0.8", 8001)
	}
	var together strings.Builder
	fmt.Fprintf(&together, gatewayClass, "")
	together.WriteString(inNamespace(base, "base"))
	dumps := map[string][]any{}
	for i, h := range all {
		if h.Unproven != "" {
			continue
		}
		bad := edit(t, base, h.Edits)
		for name, text := range map[string]string{fmt.Sprint("bad-", i): bad, fmt.Sprint("good-", i): h.mend(t, bad)} {
			if text = inNamespace(text, name); h.Class { // for all Gateways at once
				own := fmt.Sprintf(", parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: proxy, namespace: %s}", name)
				maps.Copy(dumps, translate(t, fmt.Sprintf(gatewayClass, own)+text))
				continue
			}
			together.WriteString(text)
		}
	}
	maps.Copy(dumps, translate(t, together.String()))
	if found := examineDump(t, dumps["base/edge"]); len(found) > 0 {
		t.Errorf("in what Envoy Gateway makes of the base the doctor finds %v", found)
	}
	c := &carrier{}
	for gateway, configs := range dumps {
		c.add(t, gateway+" ", withoutOwn(ofDump(t, configs)), places)
	}
	c.start(t)
	for i, h := range all {
		t.Run(fmt.Sprint(i, " ", h.ID), func(t *testing.T) {
			if h.Unproven != "" {
				return
			}
			if h.Dump != "" {
				for name, want := range map[string]bool{fmt.Sprintf("bad-%d/edge", i): true, fmt.Sprintf("good-%d/edge", i): false} {
					if found := examineDump(t, dumps[name]); slices.Contains(found, h.Dump) != want {
						t.Errorf("%s: found %v in what Envoy Gateway makes of it", name, found)
					}
				}
				return
			}
			door := h.Door
			if door == "" {
				door = "edge/http"
			}
			gateway, _, _ := strings.Cut(door, "/")
			h.compare(t, c, fmt.Sprintf("bad-%[1]d/%[2]s bad-%[1]d/%[3]s", i, gateway, door), fmt.Sprintf("good-%[1]d/%[2]s good-%[1]d/%[3]s", i, gateway, door), bearer)
		})
	}
	if t.Failed() {
		t.Log(c.names())
	}
}
