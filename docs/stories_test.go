package docs

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatehouse/children"
	"gatehouse/envoy/sandbox"
)

// story is what a page needs to be followed from its first block to its last one, in a folder of its own.
type story struct {
	from   string            // the folder of the checkout that the page is followed in a copy of; "": an empty folder
	before map[string]string // scripts that are run before the blocks that begin so: what a page takes for granted
	after  string            // a script that is run at the end: it holds what the page says and does not show
}

// stories are the pages that TestStories follows.
var stories = map[string]story{
	"docs/howto-ci.md": {before: map[string]string{
		"tests:": app("GET /orders orders") + `gatehouse init --flask shop:app --python .venv/bin/python >/dev/null
sed -i 's/^# \(allowed if "viewer" in input.identity.roles\)/\1/' policy/GET/orders.rego`,
	}},
	"docs/howto-cors.md": {},
	"docs/howto-envoy.md": {before: map[string]string{
		"package envoy.authz": `mkdir -p app; echo hello >app/public.txt; echo secret >app/private.txt
python3 -m http.server -d app --bind 127.0.0.1 8000 >/dev/null 2>&1 &`,
	}},
	"docs/howto-incident.md": {from: "examples/flask-orders", before: map[string]string{
		"$ curl -s -D headers": `flask --app app run --port 8000 >/dev/null 2>&1 &
gatehouse token mint --sub alice >alice.token 2>/dev/null
gatehouse token mint --sub vera >vera.token 2>/dev/null
gatehouse serve >/dev/null 2>&1 &
envoy -c envoy.yaml >/dev/null 2>&1 &
until curl -sf -o /dev/null http://127.0.0.1:8080/healthz; do sleep 0.1; done`,
		"$ gatehouse bundle history": "sed -i s/orders-1/orders-2/ policy/.manifest; until gatehouse bundle history | grep -q orders-2; do sleep 0.1; done",
	}},
	"docs/howto-login.md":            {},
	"docs/howto-service-accounts.md": {},
	"docs/howto-several-apps.md":     {},
	"docs/howto-streams.md":          {before: map[string]string{"$ curl -sN": `USERS=$(echo "$HOME"/gatehouse/*/users)`}},
	"docs/howto-tenants.md":          {},
	"docs/howto-uploads.md":          {},
	"docs/troubleshooting.md": {from: "docs/testdata/troubleshooting", before: map[string]string{
		"$ curl -s http://127.0.0.1:8080/orders\n": `python3 -m http.server -d app --bind 127.0.0.1 8000 >/dev/null 2>&1 &
gatehouse token mint --sub vera --role viewer >vera.token 2>/dev/null
gatehouse token mint --sub vera --role viewer --aud wiki >other.token 2>/dev/null
serve() { gatehouse serve --wait-for-policy >serve.log 2>&1 & server=$!; until curl -s -o /dev/null http://127.0.0.1:9192/healthz; do sleep 0.05; done; }
logged() { until tail -n 1 access.log | grep -q "$1"; do sleep 0.05; done; }
serve
envoy -c envoy.yaml --file-flush-interval-msec 50 >envoy.log 2>&1 &
until curl -sf -o /dev/null http://127.0.0.1:8080/health; do sleep 0.05; done`,
		"$ tail -n 1 access.log\nGET /orders 401": `logged ext_authz_denied`,
		"$ curl -s -H \"authorization: Bearer $(cat vera.token)\" http://127.0.0.1:8080/orders\n": `mv policy/health.rego health.rego
printf 'package shop.GET.health\nallowed if inptu.x\n' >policy/health.rego
kill $server; wait $server || true; serve`,
		"$ curl -s -o /dev/null -w '%{http_code} %{size_download} bytes\\n' http": `mv health.rego policy/health.rego; kill $server; wait $server || true`,
		"$ tail -n 1 access.log\nGET /orders 503":                                 `logged ext_authz_error`,
		"$ curl -s -o /dev/null -w '%{http_code} %{size_download} bytes\\n' -H":   `serve`,
		"$ tail -n 1 access.log\nGET /orders 500":                                 `logged ext_authz_invalid`,
		"$ gatehouse status --admin": `gatehouse control serve --data control --listen 127.0.0.1:9193 >control.out 2>control.log & control=$!
until grep -q GATEHOUSE_CONTROL_TOKEN control.out; do sleep 0.1; done
eval "$(grep -o 'export GATEHOUSE_CONTROL_TOKEN=.*' control.out)"
export GATEHOUSE_CONTROL_URL=https://127.0.0.1:9193 GATEHOUSE_CONTROL_CA=$PWD/control/ca.pem
gatehouse control enroll --edge web-1 --out enroll.token >/dev/null
cat >edge.yaml <<'END'
state_dir: ./state
listen: {grpc: ["127.0.0.1:9194"], admin: "127.0.0.1:9195"}
policy: {decision: shop/GET/health/allowed, bundles: [{name: app, path: policy}]}
directory: {control: true, max_age: 1h}
control: {url: "https://127.0.0.1:9193", ca: control/ca.pem, enroll_token_file: enroll.token}
END
gatehouse serve -c edge.yaml 2>edge.log &
until grep -q 'connected to control' edge.log; do sleep 0.05; done
kill $control; wait $control || true
until curl -s http://127.0.0.1:9195/readyz | grep -q control; do sleep 0.05; done`,
	}, after: `for m in $(curl -s http://127.0.0.1:9192/metrics http://127.0.0.1:9195/metrics | sed -n 's/^# TYPE \(gatehouse_[a-z_]*\) .*/\1/p'); do
  grep -q "$m[^a-z_]" "$DOCS/metrics.md" || { echo "docs/metrics.md lacks $m"; exit 1; }
done`},
	"docs/tutorial-from-opa.md": {before: map[string]string{"$ gatehouse check GET /people --header": `jwt() { python3 -c 'import base64,hashlib,hmac,json,sys
b=lambda x:base64.urlsafe_b64encode(x).rstrip(b"=").decode()
t=b(json.dumps({"alg":"HS256","typ":"JWT"}).encode())+"."+b(json.dumps({"exp":2241081539,"nbf":1514851139,"role":sys.argv[1],"sub":base64.b64encode(sys.argv[2].encode()).decode()}).encode())
print(t+"."+b(hmac.new(b"secret",t.encode(),hashlib.sha256).digest()))' "$@"; }
ALICE=$(jwt guest alice) BOB=$(jwt admin bob)`}},
	"docs/tutorial-from-topaz.md": {from: "examples/flask-aserto"},
	"docs/tutorial-policies.md":   {},
	"docs/upgrade.md":             {from: "examples/flask-orders", before: map[string]string{"gatehouse config validate": "gatehouse token mint --sub vera >/dev/null 2>&1"}},
	"docs/identity.md": {from: "examples/flask-orders", before: map[string]string{
		"$ gatehouse token why": "gatehouse token mint --sub u1 --config gatehouse.yaml >token.txt",
	}, after: `starts() { # what /readyz answers first, with this in the section identity
  printf '{listen: {grpc: ["127.0.0.1:9191"], admin: "127.0.0.1:9192"}, policy: {bundles: [{path: policy}]}, identity: {%s}}' "$1" >ready.yaml
  gatehouse serve -c ready.yaml >/dev/null 2>&1 & server=$!
  until curl -s -o /dev/null 127.0.0.1:9192/healthz; do kill -0 $server; sleep 0.05; done
  until curl -s 127.0.0.1:9192/readyz | grep -q 'no keys of issuer'; do sleep 0.05; done
  test "$(curl -s -o /dev/null -w '%{http_code}' 127.0.0.1:9192/readyz)" = "$2"
  kill $server; wait $server
}
down='jwt: [{issuer: "http://127.0.0.1:1", audiences: [a], keys: {url: "http://127.0.0.1:1/keys"}}'
starts "$down]" 503
starts "$down, {issuer: http://localhost/issuer, audiences: [a], keys: {file: jwks.json}}]" 200
echo 'keys: []' >keys.yaml
starts "$down], api_keys: {file: keys.yaml}" 200`},
	"docs/routes.md": {before: map[string]string{
		"$ gatehouse routes import flask shop:app --python": app("GET,POST /orders orders", "GET /orders/<int:id> order", "GET /files/<path:name> files"),
		"$ gatehouse routes import flask shop:app --out routes.yaml\n~ GET": app("GET /old old", "GET /orders/<int:id> show") +
			"gatehouse routes import flask shop:app --python .venv/bin/python --out routes.yaml --force\n" +
			app("GET /orders/<int:id> order", "DELETE /orders/<int:id> drop"),
		"gatehouse routes import flask shop:app --out routes.yaml --check": "gatehouse routes import flask shop:app --python .venv/bin/python --out routes.yaml --force",
		"$ gatehouse routes import flask shop:app --out routes.yaml --stubs": "rm routes.yaml\n" + app("GET,POST /orders orders", "GET /orders/<int:id> order", "GET /files/<path:name> files") +
			"gatehouse init --flask shop:app --python .venv/bin/python >/dev/null\n" +
			app("GET,POST /orders orders", "GET /orders/<int:id> order", "GET /files/<path:name> files", "GET,POST /invoices invoices"),
	}},
}

// app is a script that writes the Flask application shop.py with these routes: the methods, the path, and the view's name.
func app(routes ...string) string {
	text := "cat >shop.py <<'END_OF_FILE'\nfrom flask import Flask\napp = Flask(__name__, static_folder=None)\n"
	for _, route := range routes {
		parts := strings.Fields(route)
		text += fmt.Sprintf("@app.route('%s', methods='%s'.split(','))\ndef %s(**_): return ''\n", parts[1], parts[0], parts[2])
	}
	return text + "END_OF_FILE\n"
}

// hangGuard bounds a page. It is no expectation: what hangs is to end before the tests do.
const hangGuard = 3 * time.Minute

// TestStories follows each page as a reader would: its blocks with a file's name are written, its blocks of sh and console are run, in their order and
// in one shell. What a block of console shows is compared with what is printed, where "..." is any text, and as a line of its own any lines; where it shows nothing
// the command has to succeed.
func TestStories(t *testing.T) {
	gatehouse := sync.OnceValues(func() (string, error) {
		file := filepath.Join(t.TempDir(), "gatehouse")
		out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", file, "../cmd/gatehouse").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		return file, err
	})
	all := map[string]*page{}
	for _, p := range pages(t) {
		all[p.name] = p
	}
	for name, s := range stories {
		p := all[name]
		if p == nil {
			t.Errorf("there is no %s", name)
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(name), ".md"), func(t *testing.T) {
			t.Parallel()
			binary, err := gatehouse()
			fail(t, err)
			p.follow(t, s, filepath.Dir(binary))
		})
	}
}

func (p *page) follow(t *testing.T, s story, bin string) {
	dir := filepath.Join(t.TempDir(), "work")
	copied := map[string]string{} // configurations of the folder that is copied
	root, err := filepath.Abs("..")
	fail(t, err)
	if s.from != "" {
		fail(t, os.CopyFS(dir, os.DirFS(filepath.Join(root, s.from))))
		configurations, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		fail(t, err)
		for _, name := range configurations {
			text, err := os.ReadFile(name)
			fail(t, err)
			copied[name] = string(text)
		}
	} else {
		fail(t, os.Mkdir(dir, 0o755))
	}
	outputs := t.TempDir()
	script, shown := p.script(s, outputs)
	script += s.after + "\n"
	path := bin + ":" + os.Getenv("PATH")
	if regexp.MustCompile(`(?m)(^|; )(envoy|flask|python|.*(--python|gatehouse init|gatehouse up)) `).MatchString(script) {
		envoy, err := sandbox.Prepare(t.Context(), root, func(string) {})
		fail(t, err)
		fail(t, os.Symlink(filepath.Join(root, ".venv"), filepath.Join(dir, ".venv")))
		// Several Envoys on one machine: only hot restarts would be in each other's way.
		wrapper := fmt.Sprintf("#!/bin/sh\nexec '%s' --disable-hot-restart \"$@\"\n", envoy)
		fail(t, os.WriteFile(filepath.Join(outputs, "envoy"), []byte(wrapper), 0o700))
		path = outputs + ":" + filepath.Join(root, ".venv", "bin") + ":" + path
	}
	ports := freePorts(t, script+strings.Join(slices.Collect(maps.Values(copied)), ""))
	for name, text := range copied {
		fail(t, os.WriteFile(name, []byte(ports.Replace(text)), 0o600))
	}
	ctx, stop := context.WithTimeout(t.Context(), hangGuard)
	defer stop()
	// What runs in the background ends with the shell.
	c := exec.CommandContext(ctx, "bash", "-c", "set -euo pipefail; trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"+ports.Replace(script))
	c.Dir = dir
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.Env = append(os.Environ(), "PATH="+path, "NO_COLOR=1", "HOME="+outputs, "XDG_STATE_HOME="+outputs, "GATEHOUSE_IMAGES="+outputs+"/images", "PYTHONDONTWRITEBYTECODE=1", "DOCS="+filepath.Join(root, "docs"))
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", p.name, err, out)
	}
	for file, b := range shown {
		got, err := os.ReadFile(file)
		if err != nil {
			continue // the script ended before
		}
		if want := ports.Replace(b.output); !matches(want, string(got)) {
			t.Errorf("%s: the page shows\n%s\nand it is\n%s", p.where(b.block), want, got)
		}
	}
}

// command is one of a block of console, with what the page says that it prints.
type command struct {
	block
	output string
}

// script is the page as a shell script, and the files that it writes outputs to.
func (p *page) script(of story, outputs string) (script string, shown map[string]command) {
	var s strings.Builder
	shown = map[string]command{}
	for _, b := range p.blocks {
		for begin, before := range of.before {
			if strings.HasPrefix(b.text, begin) {
				s.WriteString(before + "\n")
			}
		}
		switch {
		case p.unrun(b) != "":
		case b.title != "" && !strings.Contains(b.title, " "):
			fmt.Fprintf(&s, "mkdir -p \"$(dirname '%[1]s')\"; cat >'%[1]s.new' <<'END_OF_FILE'\n%[2]sEND_OF_FILE\nmv '%[1]s.new' '%[1]s'\n", b.title, b.text)
		case b.language == "sh":
			for line := range strings.Lines(b.text) {
				s.WriteString(background(strings.TrimSuffix(line, "\n")) + "\n")
			}
		case b.language == "console":
			for _, c := range commands(b) {
				if c.output == "" { // not shown, so that it has to succeed
					s.WriteString(background(c.text) + "\n")
					continue
				}
				file := filepath.Join(outputs, fmt.Sprint(len(shown)))
				fmt.Fprintf(&s, "{ %s\n} >'%s' 2>&1 || true\n", c.text, file)
				shown[file] = c
			}
		}
	}
	return s.String(), shown
}

// servers are the commands that a reader leaves running in another terminal, with what says that they are ready.
var servers = []struct{ begin, ready string }{
	{"gatehouse up", "grep -q Ctrl-C"},
	{"gatehouse serve --wait-for-policy", "curl -s -o /dev/null 127.0.0.1:9192/healthz #"},
	{"gatehouse serve", "curl -sf -o /dev/null 127.0.0.1:9192/readyz #"},
	{"envoy -c envoy.yaml", "curl -s -o /dev/null 127.0.0.1:8080/ #"},
}

// background lets a server run beside what follows, once it is ready. Other commands stay as they are. Its output is in a file, whose name
// what waits for it gets; a process that has ended is not waited for.
func background(command string) string {
	for _, server := range servers {
		if strings.HasPrefix(command, server.begin) && !strings.ContainsAny(command, "&|;>") {
			return fmt.Sprintf("terminal=$(mktemp); %s >\"$terminal\" 2>&1 & server=$!\n"+
				"until %s \"$terminal\"\ndo kill -0 $server || { cat \"$terminal\"; exit 1; }; sleep 0.05; done", command, server.ready)
		}
	}
	return command
}

// commands are those of a block of console: lines after "$ ", which a backslash at the end continues, and then what is printed.
func commands(b block) (all []command) {
	continued := false
	for line := range strings.Lines(b.text) {
		text, begins := strings.CutPrefix(line, "$ ")
		switch {
		case begins:
			all = append(all, command{block: b})
			all[len(all)-1].text = strings.TrimSuffix(text, "\n")
		case continued:
			all[len(all)-1].text += "\n" + strings.TrimSuffix(line, "\n")
		case len(all) > 0:
			all[len(all)-1].output += line
		}
		continued = (begins || continued) && strings.HasSuffix(line, "\\\n")
	}
	return all
}

// matches says whether text is as the page shows it, where "..." is any text within a line, and as a line of its own any lines.
func matches(page, text string) bool {
	var pattern strings.Builder
	for line := range strings.Lines(strings.TrimSpace(page) + "\n") {
		line = strings.TrimRight(line, " \n")
		if strings.TrimSpace(line) == "..." {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, `.*`) + ` *\n`)
	}
	return regexp.MustCompile(`\A` + pattern.String() + `\z`).MatchString(strings.TrimSpace(text) + "\n")
}

// wellKnown are the ports that pages speak of. Each page is followed with others, so that several can be at once.
var wellKnown = regexp.MustCompile(`\b(8080|8000|8001|9191|9192|9193|9194|9195|9901)\b`)

func freePorts(t *testing.T, script string) *strings.Replacer {
	t.Helper()
	found := map[string]bool{}
	for _, port := range wellKnown.FindAllString(script, -1) {
		found[port] = true
	}
	var pairs []string
	for port := range found {
		free, err := children.FreePort()
		fail(t, err)
		pairs = append(pairs, port, fmt.Sprint(free))
	}
	return strings.NewReplacer(pairs...)
}

// TestLoginIsTheExamples holds that the login of howto-login.md is that of examples/keycloak, through which TestBrowserLogsIn in envoy logs a browser in.
func TestLoginIsTheExamples(t *testing.T) {
	example, err := os.ReadFile("../examples/keycloak/envoy.yaml")
	fail(t, err)
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if p.name != "docs/howto-login.md" || !strings.Contains(b.text, "filters.http.oauth2") {
				continue
			}
			for line := range strings.Lines(b.text) {
				if !strings.Contains(string(example), line) {
					t.Errorf("%s: examples/keycloak/envoy.yaml has no line %q", p.where(b), line)
				}
			}
		}
	}
}
