package envoy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gatehouse/envoy/sandbox"
)

// spelling is one way to ask for /admin/secret, or for what somebody may take for it.
type spelling struct {
	Target string
	Method string // default: GET
	Proto  string // default: HTTP/1.1
	Header string // further header lines, without the last line end
}

func (s spelling) String() string {
	text := strings.Trim(strconv.QuoteToASCII(s.Target), `"`)
	if s.Method != "" {
		text = s.Method + " " + text
	}
	if s.Proto != "" {
		text += " " + s.Proto
	}
	if s.Header != "" {
		text += ", " + strings.ReplaceAll(s.Header, "\r\n", ", ")
	}
	return text
}

func (s spelling) request(more string) string {
	method, proto, header := "GET", "HTTP/1.1", "Host: orders.example.com\r\n"
	if s.Method != "" {
		method = s.Method
	}
	if s.Proto != "" {
		proto = s.Proto
	}
	if s.Header != "" {
		header += s.Header + "\r\n"
	}
	if strings.HasPrefix(s.Header, "Host:") {
		header = s.Header + "\r\n"
	}
	return method + " " + s.Target + " " + proto + "\r\n" + header + more + "Connection: close\r\n\r\n"
}

var spellings = []spelling{
	// As it is, and what decodes to it.
	{Target: "/admin/secret"}, {Target: "/admin/secret?"}, {Target: "/admin/secret?x=/public"}, {Target: "/%61dmin/secret"},
	{Target: "/admin/%73ecret"}, {Target: "/%61%64%6d%69%6e/%73%65%63%72%65%74"}, {Target: "/%61%64%6D%69%6E/%73%65%63%72%65%74"},
	// Case.
	{Target: "/Admin/secret"}, {Target: "/ADMIN/SECRET"}, {Target: "/%41dmin/secret"},
	// Slashes: more of them, at the end, encoded, encoded twice, the wrong way round.
	{Target: "//admin/secret"}, {Target: "/admin//secret"}, {Target: "///admin///secret"}, {Target: "/admin/secret/"},
	{Target: "/admin/secret//"}, {Target: "/admin%2fsecret"}, {Target: "/admin%2Fsecret"}, {Target: "/%2fadmin/secret"},
	{Target: "/admin/secret%2f"}, {Target: "%2fadmin%2fsecret"}, {Target: "/admin/%2fsecret"}, {Target: "/admin%252fsecret"},
	{Target: "/admin%25252fsecret"}, {Target: "/admin%u002fsecret"}, {Target: `/admin\secret`}, {Target: "/admin%5csecret"},
	{Target: "/admin%5Csecret"}, {Target: "/admin%255csecret"}, {Target: `\admin\secret`}, {Target: `/\admin/secret`},
	{Target: `/admin/secret\`}, {Target: "//orders.example.com/admin/secret"}, {Target: "/admin/secret/%2e"},
	// Dots: segments, encoded, encoded twice, in front of parameters, at the end of a name.
	{Target: "/./admin/secret"}, {Target: "/admin/./secret"}, {Target: "/admin/secret/."}, {Target: "/public/../admin/secret"},
	{Target: "/admin/x/../secret"}, {Target: "/../admin/secret"}, {Target: "/admin/secret/../secret"}, {Target: "/admin/secret/x/.."},
	{Target: "/public/%2e%2e/admin/secret"}, {Target: "/public/.%2e/admin/secret"}, {Target: "/public/%2E./admin/secret"},
	{Target: "/%2e/admin/secret"}, {Target: "/admin/%2e/secret"}, {Target: "/public/%252e%252e/admin/secret"},
	{Target: "/public/..%2fadmin/secret"}, {Target: "/public/%2e%2e%2fadmin%2fsecret"}, {Target: `/public\..\admin\secret`},
	{Target: "/public/..%5cadmin%5csecret"}, {Target: "/public/..;/admin/secret"}, {Target: "/public/..;x=1/admin/secret"},
	{Target: "/public/%2e%2e;/admin/secret"}, {Target: "/public/..%3b/admin/secret"}, {Target: "/public/.../admin/secret"},
	{Target: "/admin/secret."}, {Target: "/admin/secret.."}, {Target: "/admin./secret"}, {Target: "/admin/secret.json"},
	{Target: "/public/%c0%ae%c0%ae/admin/secret"}, {Target: "/public/%u002e%u002e/admin/secret"},
	// Parameters.
	{Target: "/admin;/secret"}, {Target: "/admin/secret;"}, {Target: "/admin/secret;x=1"}, {Target: "/;/admin/secret"},
	{Target: "/;x=1/admin/secret"}, {Target: "/admin/;/secret"}, {Target: "/admin%3b/secret"}, {Target: "/admin/secret%3bx"},
	// Question marks and fragments.
	{Target: "/admin/secret%3f"}, {Target: "/admin/secret%3fx=1"}, {Target: "/admin%3f/secret"}, {Target: "/admin/secret#"},
	{Target: "/admin/secret#/public"}, {Target: "/public#/../admin/secret"}, {Target: "/admin/secret%23"},
	{Target: "/public?/../admin/secret"}, {Target: "/admin/secret?#x"}, {Target: "?/admin/secret"},
	// NUL, controls, white space.
	{Target: "/admin/secret%00"}, {Target: "/admin/secret%00.json"}, {Target: "/admin%00/secret"}, {Target: "/admin/%00secret"},
	{Target: "/admin/secret\x00"}, {Target: "/admin/secret%0a"}, {Target: "/admin/secret%0d%0a"}, {Target: "/%0aadmin/secret"},
	{Target: "/admin/secret%09"}, {Target: "/admin/secret\t"}, {Target: "/%09/admin/secret"}, {Target: "/admin/secret%20"},
	{Target: "/admin/%20secret"}, {Target: "/admin/secret+"}, {Target: "/admin/secret "}, {Target: "/admin/sec ret"},
	{Target: "/admin/secret%7f"}, {Target: "/admin/secret%08"}, {Target: "/admin/secret%1f"}, {Target: "/admin/secret%85"},
	{Target: "/admin/secret%c2%a0"}, {Target: "/admin/secret%e2%80%8b"}, {Target: "/%ef%bb%bfadmin/secret"}, {Target: "/admin/sec%c2%adret"},
	// Overlong and other bad UTF-8, raw bytes, look-alikes that compatibility forms fold.
	{Target: "/admin%c0%afsecret"}, {Target: "/admin%e0%80%afsecret"}, {Target: "/admin%f0%80%80%afsecret"}, {Target: "/%c1%a1dmin/secret"},
	{Target: "/admin/secret%ff"}, {Target: "/admin/secret%ed%a0%80"}, {Target: "/admin/secret\xff"}, {Target: "/admin\xc0\xafsecret"},
	{Target: "/admin%ef%bc%8fsecret"}, {Target: "/admin\uff0fsecret"}, {Target: "/admin%e2%88%95secret"}, {Target: "/public/%e2%80%a4%e2%80%a4/admin/secret"},
	{Target: "/%ef%bd%81dmin/secret"}, {Target: "/admin/%c5%bfecret"}, {Target: "/adm%c4%b1n/secret"}, {Target: "/admin/secret%e3%80%82"},
	// Escapes that are none, and escapes of escapes.
	{Target: "/admin/secret%"}, {Target: "/admin/secret%2"}, {Target: "/admin/secret%zz"}, {Target: "/%%61dmin/secret"},
	{Target: "/%2561dmin/secret"}, {Target: "/%252561dmin/secret"}, {Target: "/%2%361dmin/secret"}, {Target: "/%u0061dmin/secret"}, {Target: "/%x61dmin/secret"},
	// Other forms of a request target, other methods, other versions, other hosts.
	{Target: "http://orders.example.com/admin/secret"}, {Target: "http://evil.example.com/admin/secret"}, {Target: "HTTP://x/admin/secret"},
	{Target: "https://orders.example.com/admin/secret"}, {Target: "http:///admin/secret"}, {Target: "http://x?/admin/secret"},
	{Target: "http://x#/admin/secret"}, {Target: "http://x/public/../admin/secret"}, {Target: "http://x//admin/secret"},
	{Target: "ftp://x/admin/secret"}, {Target: "http:/admin/secret"}, {Target: "admin/secret"}, {Target: "./admin/secret"},
	{Target: "*"}, {Target: "*/admin/secret"}, {Target: "@x/admin/secret"}, {Target: "/admin/secret", Method: "HEAD"},
	{Target: "/admin/secret", Method: "get"}, {Target: "/admin/secret", Method: "OPTIONS"}, {Target: "/admin/secret", Method: "TRACE"},
	{Target: "/admin/secret", Method: "CONNECT"}, {Target: "orders.example.com:80", Method: "CONNECT"}, {Target: "/admin/secret", Method: "PRI"},
	{Target: "/admin/secret", Proto: "HTTP/1.0"}, {Target: "/admin/secret", Proto: "HTTP/2.0"}, {Target: "/admin/secret", Proto: "HTTP/0.9"},
	{Target: "/admin/secret", Proto: "HTTP/1.2"}, {Target: "/admin/secret", Header: "Host: admin/secret"}, {Target: "/secret", Header: "Host: x/admin"},
	{Target: "/public", Header: "Host: orders.example.com/admin/secret?"}, {Target: "/admin/secret", Header: "Host: a\r\nHost: b"},
	// Headers by which a server or a framework may take another path, host or method than the request line's.
	{Target: "/public", Header: "X-Original-URL: /admin/secret"}, {Target: "/public", Header: "X-Rewrite-URL: /admin/secret"},
	{Target: "/public", Header: "X-Forwarded-Uri: /admin/secret"}, {Target: "/public", Header: "X-Forwarded-Path: /admin/secret"},
	{Target: "/public/admin/secret", Header: "X-Forwarded-Prefix: /public"}, {Target: "/public/admin/secret", Header: "X-Script-Name: /public"},
	{Target: "/public/admin/secret", Header: "Script-Name: /public"}, {Target: "/public/admin/secret", Header: "SCRIPT_NAME: /public"},
	{Target: "/public/admin/secret", Header: "Script_Name: /public"}, {Target: "/public", Header: "PATH_INFO: /admin/secret"},
	{Target: "/public", Header: "Path-Info: /admin/secret"}, {Target: "/public", Header: "REQUEST_URI: /admin/secret"},
	{Target: "/admin/secret", Method: "POST", Header: "X-HTTP-Method-Override: GET\r\nContent-Length: 0"},
	{Target: "/public", Header: "X-Envoy-Original-Path: /admin/secret"}, {Target: "/public", Header: ":path: /admin/secret"},
	{Target: "/public", Header: "Transfer-Encoding: chunked\r\nContent-Length: 4"},
}

// How an Envoy reads paths: as the example's, or not at all. headers_with_underscores_action stays off in both, so that
// nothing hides what Gatehouse does.
const (
	normalising    = "normalize_path: true, merge_slashes: false, path_with_escaped_slashes_action: REJECT_REQUEST, http_protocol_options: {accept_http_10: true}"
	notNormalising = "normalize_path: false, merge_slashes: false, path_with_escaped_slashes_action: KEEP_UNCHANGED, http_protocol_options: {accept_http_10: true}"
	// Not what anybody should have: what a spelling becomes when slashes are made whole before we see them.
	unescaping = "normalize_path: true, merge_slashes: true, path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD"
)

const jewels = "the crown jewels"

// backends are the applications: Flask under gunicorn, FastAPI under uvicorn with either of its HTTP parsers.
var backends = []string{"Flask", "FastAPI", "FastAPI (h11)"}

// startBackends starts those that the sandbox does not, and returns the ports as an envoy.yaml is to name them.
func startBackends(t *testing.T) []int {
	t.Helper()
	return []int{8000, startFastAPI(t, "httptools"), startFastAPI(t, "h11")}
}

// portOf is the port of one of a sandbox's addresses.
func portOf(t *testing.T, address string) int {
	t.Helper()
	port, err := strconv.Atoi(address[strings.LastIndexByte(address, ':')+1:])
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// For no spelling does an application serve what the policy denies, whatever Envoy does to paths.
func TestHostilePaths(t *testing.T) {
	t.Parallel()
	apps := startBackends(t)
	managers := []string{normalising, notNormalising, unescaping}
	doors := []door{}
	for _, manager := range managers {
		for _, app := range apps {
			doors = append(doors, door{Port: freePort(t), App: app, Authz: []int{9191}, Manager: manager})
		}
	}
	doors[0].Port = 8080
	s := start(t, sandbox.Config{App: withDoors(t, doors, "flask", "secret")})
	doors[0].Port, apps[0] = portOf(t, s.URL), portOf(t, s.AppURL)

	mallory := "Authorization: Bearer " + s.Token("mallory") + "\r\n" // known by name, and denied
	for i, d := range doors {
		for _, target := range []string{"/admin/secret", "/%61dmin/secret"} {
			if got := send(t, d.Port, spelling{Target: target}.request("X-Let-Me: in\r\n")); !contains(got.Body, jewels) {
				t.Fatalf("door %d serves %s to nobody: %s %s", i, target, got, got.Body)
			}
		}
	}
	var rows strings.Builder
	for _, sp := range spellings {
		var alone []string
		for i, app := range apps {
			if contains(send(t, app, sp.request("")).Body, jewels) {
				alone = append(alone, backends[i])
			}
		}
		cells := make([]string, len(managers))
		for m := range managers {
			verdicts := make([]string, len(apps))
			for i := range apps {
				got := send(t, doors[m*len(apps)+i].Port, sp.request(mallory))
				verdicts[i] = got.String()
				if contains(got.Body, jewels) {
					t.Errorf("%s serves the protected resource for %s (manager: %s)", backends[i], sp, managers[m])
				}
			}
			cells[m] = inOne(verdicts)
		}
		fmt.Fprintf(&rows, "| %s | %s | %s | %s |\n", code(sp.String()), strings.Join(alone, ", "), cells[0], cells[1])
	}
	table := "| request | the app alone serves it | Envoy normalises | Envoy leaves paths alone |\n|---|---|---|---|\n" + rows.String()
	t.Logf("%d spellings\n%s", len(spellings), table)
	inDocs(t, "paths", table)
}

// inOne says once what all backends say, else who says what.
func inOne(verdicts []string) string {
	if len(slices.Compact(slices.Clone(verdicts))) == 1 {
		return verdicts[0]
	}
	parts := make([]string, len(verdicts))
	for i, v := range verdicts {
		parts[i] = backends[i] + ": " + v
	}
	return strings.Join(parts, "; ")
}

// code is text as code in a cell of a Markdown table.
func code(text string) string { return "`` " + strings.ReplaceAll(text, "|", `\|`) + " ``" }

// inDocs holds docs/security.md against what was seen; with UPDATE_DOCS=1 it writes it there instead.
func inDocs(t *testing.T, name, table string) {
	t.Helper()
	file := filepath.Join(root, "docs", "security.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
	before, rest, found := strings.Cut(string(text), begin)
	current, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no %q and %q", file, begin, end)
	}
	if current == table {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Errorf("%s does not hold the table above between %q and %q: run this test with UPDATE_DOCS=1", file, begin, end)
		return
	}
	write(t, file, before+begin+table+end+after)
}
