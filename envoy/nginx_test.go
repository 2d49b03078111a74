package envoy_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

// behindNginx is the echo application behind the nginx.conf to copy and a Gatehouse for nginx. The Envoy of the sandbox
// runs idle beside it.
type behindNginx struct {
	*sandbox.Sandbox
	address string // nginx's, host:port
}

// startNginx starts everything, with the changes (what, by what) made in nginx.conf.
func startNginx(t *testing.T, gatehouse []string, changes ...string) behindNginx {
	t.Helper()
	binary := nginxBinary(t)
	app := httpApp(t, append([]string{"proxy: envoy, path_prefix: /authz", "proxy: nginx"}, gatehouse...)...)
	s := start(t, sandbox.Config{App: app})
	n := behindNginx{Sandbox: s, address: freeAddress(t)}
	dir := workDir(t)
	text, err := os.ReadFile(filepath.Join(root, "examples", "nginx", "nginx.conf"))
	if err != nil {
		t.Fatal(err)
	}
	changes = append([]string{"127.0.0.1:8080", n.address, "127.0.0.1:8000", strings.TrimPrefix(s.AppURL, "http://"), "127.0.0.1:9193;", httpAddress(t, s) + ";",
		"http {\n", "http {\n" + places(dir)}, changes...)
	conf := string(text)
	for i := 0; i < len(changes); i += 2 {
		if !contains(conf, changes[i]) {
			t.Fatalf("nginx.conf does not hold %q", changes[i])
		}
		conf = strings.ReplaceAll(conf, changes[i], changes[i+1])
	}
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	n.run(t, binary, dir)
	return n
}

// places keeps all that nginx writes in one directory.
func places(dir string) string {
	out := "access_log off;\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		out += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	return out
}

// run starts nginx as a child and ends it with the test. What it logs at its end goes to the test's log.
func (n behindNginx) run(t *testing.T, binary, dir string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "error.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr",
		"-g", "daemon off; master_process off; pid "+dir+"/pid; error_log stderr;")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("nginx:\n%s", tail(string(text)))
		}
	})
	for range 500 {
		if conn, err := net.Dial("tcp", n.address); err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond) // a port has no event to wait for
	}
	text, _ := os.ReadFile(log.Name())
	t.Fatalf("nginx does not listen: %s", text)
}

// freeAddress is a loopback address that nobody uses yet.
func freeAddress(t *testing.T) string { return at(freePort(t)) }

// httpAddress is where the sandbox's Gatehouse listens for HTTP, from the configuration that it runs with.
func httpAddress(t *testing.T, s *sandbox.Sandbox) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(s.DecisionLog()), "gatehouse.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`http: \{address: "([^"]+)"`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("no listen.http in %s", text)
	}
	return string(found[1])
}

// do sends a request to nginx.
func (n behindNginx) do(t *testing.T, method, target string, headers ...string) sandbox.Answer {
	t.Helper()
	return askRaw(t, n.address, method, target, headers...)
}

func TestNginx(t *testing.T) {
	t.Parallel()
	n := startNginx(t, nil)
	bearer := "Authorization: Bearer "
	vera, forged := bearer+n.Token("vera", "viewer"), bearer+n.ForgedToken("vera")
	for _, c := range []struct {
		method, target string
		headers        []string
		want           int
	}{
		{"GET", "/open", nil, 200},
		{"HEAD", "/open", nil, 200},
		{"GET", "/open", []string{vera}, 200},
		{"GET", "/open", []string{forged}, 401},
		{"GET", "/no", nil, 401},
		{"GET", "/no", []string{vera}, 403},
		{"POST", "/open", []string{vera, "Content-Length: 0"}, 405}, // by the app
		{"GET", "/nothing", []string{vera}, 403},
		{"GET", "/wrong", []string{vera}, 403},
		{"GET", "/query", []string{vera}, 403},
		{"GET", "/deny/200", []string{vera}, 403},
		{"GET", "/deny/204", []string{vera}, 403},
		{"GET", "/deny/404", []string{vera}, 403},
		{"GET", "/deny/429", []string{vera}, 403},
		{"GET", "/deny/503", []string{vera}, 403},
		{"GET", "/redirect", []string{vera}, 403},
		{"GET", "http://orders.example.com/open", []string{vera}, 200},
		{"GET", "http://orders.example.com/no", []string{vera}, 403},
		{"OPTIONS", "*", []string{vera}, 400},
		{"GET", "//open", []string{vera}, 403},
		{"GET", "/open/../no", []string{vera}, 403},
		{"GET", "/no/../open", []string{vera}, 403},
		{"GET", "/open%2f..%2fno", []string{vera}, 403},
		{"GET", "/open%00", []string{vera}, 400},
		{"GET", "/open#no", []string{vera}, 403},
		{"GET", "/open\xff", []string{vera}, 403},
		{"GET", "/_gatehouse", []string{vera}, 404},
		// A client cannot say in the proxy's place what it asks for.
		{"GET", "/no", []string{vera, "X-Original-URI: /open"}, 403},
		{"GET", "/no", []string{vera, "x-original-uri: /open", "X-ORIGINAL-URI: /open"}, 403},
		{"GET", "/no", []string{vera, "X_Original_URI: /open"}, 403},
		{"GET", "/open", []string{vera, "X-Original-URI: /no"}, 200},
		{"DELETE", "/open", []string{vera, "X-Original-Method: GET"}, 405},
		{"GET", "/no", []string{vera, "X-Forwarded-Uri: /open", "X-Original-Url: /open", "X-Rewrite-Url: /open"}, 403},
		{"GET", "/open", []string{vera, "X-HTTP-Method-Override: DELETE"}, 200},
		{"GET", "/open", []string{vera, "Cookie: a=" + strings.Repeat("x", 7<<10)}, 200},
	} {
		got := n.do(t, c.method, c.target, c.headers...)
		if got.Status != c.want {
			t.Errorf("%s %q %q: %d %.200q, want %d", c.method, c.target, c.headers, got.Status, got.Body, c.want)
		}
		if id, denied := got.Header.Get("X-Decision-Id"), c.want == 401 || c.want == 403; denied && id == "" {
			t.Errorf("%s %q: a denial without x-decision-id: %v", c.method, c.target, got.Header)
		}
		if challenge := got.Header.Get("WWW-Authenticate"); (c.want == 401) != (challenge != "") {
			t.Errorf("%s %q: %d with WWW-Authenticate %q", c.method, c.target, c.want, challenge)
		}
	}
}

// The nginx.conf to copy keeps forged identities from a WSGI app that folds underscores, with nginx's own means.
func TestIdentityBehindNginx(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string][]string{
		"as the example":   nil,
		"underscores kept": {"underscores_in_headers off", "underscores_in_headers on"}, // then Gatehouse refuses
	} {
		t.Run(name, func(t *testing.T) {
			n := startNginx(t, nil, changes...)
			for spelling, sent := range forgeries {
				var lines []string
				underscore := false
				for header, values := range sent {
					underscore = underscore || contains(header, "_")
					for _, v := range values {
						lines = append(lines, header+": "+v)
					}
				}
				for _, c := range [][3]string{{}, {"vera", "viewer", n.Token("vera", "viewer")}, {"dave", "", n.Token("dave")}} {
					headers := lines
					if c[2] != "" {
						headers = append([]string{"Authorization: Bearer " + c[2]}, lines...)
					}
					got := n.do(t, "GET", "/open", headers...)
					if changes != nil && underscore {
						if got.Status != http.StatusForbidden {
							t.Errorf("%s, %s: %d, want 403", c[0], spelling, got.Status)
						}
						continue
					}
					if seen := echoed(t, got); seen["X-Auth-Subject"] != c[0] || seen["X-Auth-Roles"] != c[1] {
						t.Errorf("%s, %s: the app sees subject %q and roles %q", c[0], spelling, seen["X-Auth-Subject"], seen["X-Auth-Roles"])
					}
				}
			}
		})
	}
}

// echoed are the headers that the echo application received.
func echoed(t *testing.T, a sandbox.Answer) map[string]string {
	t.Helper()
	headers := map[string]string{}
	if err := json.Unmarshal([]byte(a.Body), &headers); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%d %q: %v", a.Status, a.Body, err)
	}
	return headers
}

// What a policy sets and removes takes two lines of nginx.conf for each name. In a dry run the same holds, and what nginx
// could not take off is denied even then.
func TestHeadersBehindNginx(t *testing.T) {
	t.Parallel()
	n := startNginx(t, nil, "            proxy_set_header X-Auth-Roles   $auth_roles;\n", `
		proxy_set_header X-Auth-Roles $auth_roles;
		auth_request_set $tenant $upstream_http_x_tenant;
		proxy_set_header X-Tenant $tenant;
		auth_request_set $remove_me $upstream_http_x_remove_me;
		proxy_set_header X-Remove-Me $remove_me;`)
	vera := "Authorization: Bearer " + n.Token("vera")
	for target, want := range map[string]map[string]string{
		"/headers": {"X-Tenant": "blue", "X-Remove-Me": "", "X-Auth-Subject": "vera", "X-Auth-Roles": "", "X-Other": "stays"},
		"/open":    {"X-Tenant": "", "X-Auth-Subject": "vera", "X-Auth-Roles": "", "X-Other": "stays"},
	} {
		got := echoed(t, n.do(t, "GET", target, vera, "X-Tenant: red", "X-Remove-Me: now", "X-Other: stays", "X-Auth-Roles: admin"))
		for name, value := range want {
			if got[name] != value {
				t.Errorf("%s: the app sees %s %q, want %q", target, name, got[name], value)
			}
		}
	}
}

func TestDryRunBehindNginx(t *testing.T) {
	t.Parallel()
	n := startNginx(t, []string{"limits:", "dry_run: true\nlimits:"}, "underscores_in_headers off", "underscores_in_headers on")
	got := echoed(t, n.do(t, "GET", "/no", "Authorization: Bearer "+n.Token("vera"), "X-Auth-Subject: root", "X-HTTP-Method: stays away"))
	if got["X-Auth-Subject"] != "vera" || got["X-Http-Method"] != "" {
		t.Errorf("the app sees %v", got)
	}
	if got := n.do(t, "GET", "/no", "X_Auth_Subject: root"); got.Status != http.StatusForbidden {
		t.Errorf("a look-alike in a dry run: %d", got.Status)
	}
}

// Browsers go to the login page with the lines of nginx.conf that are there to be uncommented; others keep their 401.
func TestLoginBehindNginx(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "examples", "nginx", "nginx.conf"))
	if err != nil {
		t.Fatal(err)
	}
	var changes []string
	for _, line := range strings.Split(string(text), "\n") {
		if bare := strings.TrimSpace(line); regexp.MustCompile(`^# .*[;{}]$`).MatchString(bare) {
			changes = append(changes, line+"\n", strings.TrimPrefix(bare, "# ")+"\n")
		}
	}
	n := startNginx(t, []string{"limits:", "denials: {login_url: https://login.example.com/}\nlimits:"}, changes...)
	html := "Accept: text/html"
	vera := "Authorization: Bearer " + n.Token("vera")
	for _, c := range []struct {
		target   string
		headers  []string
		want     int
		location string
	}{
		{"/no?a=b", []string{html}, 302, "https://login.example.com/?rd=%2Fno%3Fa%3Db"},
		{"/no", nil, 401, ""},
		{"/no", []string{html, vera}, 403, ""},
		{"/redirect", []string{html, vera}, 403, ""},
		{"/open", []string{html}, 200, ""},
	} {
		if got := n.do(t, "GET", c.target, c.headers...); got.Status != c.want || got.Header.Get("Location") != c.location {
			t.Errorf("%s %q: %d to %q, want %d to %q", c.target, c.headers, got.Status, got.Header.Get("Location"), c.want, c.location)
		}
	}
}

// Without its answer nginx lets nobody through. What nginx.conf forgets to say denies as well.
func TestNginxWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	n := startNginx(t, nil, "proxy_set_header X-Original-Host   $host;", "")
	if got := n.do(t, "GET", "/open"); got.Status != http.StatusForbidden {
		t.Errorf("without X-Original-Host: %d", got.Status)
	}
	if _, err := n.StopGatehouse(); err != nil {
		t.Error(err)
	}
	if got := n.do(t, "GET", "/open"); got.Status != http.StatusInternalServerError {
		t.Errorf("without gatehouse: %d", got.Status)
	}
}

// nginxBinary is the machine's nginx, which hack/need-nginx.sh installs where it is missing.
func nginxBinary(t *testing.T) string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "sh", filepath.Join(root, "hack", "need-nginx.sh")).CombinedOutput(); err != nil {
		t.Fatalf("%s (%v)", out, err)
	}
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} { // the second is Debian's place, which is not on every PATH
		if binary, err := exec.LookPath(name); err == nil {
			return binary
		}
	}
	t.Fatal("nginx is installed and cannot be found: put it on PATH")
	return ""
}
