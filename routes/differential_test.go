package routes_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
	"gatehouse/routes"
	"gatehouse/routes/importer"

	"github.com/google/go-cmp/cmp"
)

// The differential test: the real frameworks say where a request goes, and the table imported from the same
// application must say the same. GATEHOUSE_ROUTES_REQUESTS sets how many requests each application gets (default 1000, with -tags full 10,000),
// GATEHOUSE_ROUTES_SEED another seed.

type request struct {
	Method string `json:"method"`
	Host   string `json:"host"`
	Path   string `json:"path"`
}

func (r request) String() string { return fmt.Sprintf("%s http://%s%s", r.Method, r.Host, r.Path) }

type answer struct {
	Outcome string            `json:"outcome"`
	Name    string            `json:"name"`
	Route   string            `json:"route"`
	Params  map[string]string `json:"params"`
}

// target is one application and the framework that is asked about it.
type target struct {
	name      string
	framework string
	module    string
	oracle    string
	hosts     []string
	adjust    string // a line that is added to the imported table
}

var targets = []target{
	{name: "flask", framework: routes.Flask, module: "flask_app:create_app()", oracle: "flask"},
	{name: "flask mounted", framework: routes.Flask, module: "flask_app:create_mounted()", oracle: "flask"},
	{name: "flask hosts", framework: routes.Flask, module: "flask_app:create_hosts()", oracle: "flask",
		hosts: []string{"www.example.com", "a.example.com", "www.example.com:8080", "api.eu.example.com", "API.EU.example.com", "other.org", "www.example.com:80"}},
	{name: "flask subdomains", framework: routes.Flask, module: "flask_app:create_subdomains()", oracle: "flask",
		hosts: []string{"example.com", "bob.example.com", "api.example.com", "a.b.example.com", "other.org", "example.com:80"}},
	{name: "starlette", framework: routes.FastAPI, module: "starlette_app:app", oracle: "asgi",
		hosts: []string{"x.test", "api.example.com", "API.example.com:8000", "a.example.org", "a.b.example.org:1", "example.org"}},
	{name: "fastapi", framework: routes.FastAPI, module: "fastapi_app:app", oracle: "asgi"},
	{name: "fastapi root_path", framework: routes.FastAPI, module: "fastapi_app:create_app('/api/v1')", oracle: "asgi"},
	{name: "fastapi frontend", framework: routes.FastAPI, module: "fastapi_app:create_frontend()", oracle: "asgi"},
	{name: "django", framework: routes.Django, module: "djangoapp.settings", oracle: "django"},
	{name: "django channels", framework: routes.Django, module: "djangoasgi", oracle: "django-asgi"},
	{name: "django languages", framework: routes.Django, module: "djangoasgi_bare", oracle: "django-asgi"},
	{name: "django asgi", framework: routes.Django, module: "djangoapp.settings", oracle: "django-asgi", adjust: "server: asgi"},
}

func TestFrameworksAgree(t *testing.T) {
	count := differentialRequests
	if text := os.Getenv("GATEHOUSE_ROUTES_REQUESTS"); text != "" {
		count, _ = strconv.Atoi(text)
	}
	for _, target := range targets {
		t.Run(target.name, func(t *testing.T) {
			t.Parallel()
			table := target.table(t)
			oracle := startOracle(t, target.oracle, target.module)
			tally := map[string]int{}
			wrong := 0
			requests := generate(table, target.hosts, count)
			for start := 0; start < len(requests) && wrong < 10; start += 500 {
				batch := requests[start:min(start+500, len(requests))]
				for i, theirs := range oracle.ask(t, batch) {
					tally[theirs.Outcome]++
					if difference(table, batch[i], theirs) == "" {
						continue
					}
					if wrong++; wrong > 10 {
						break
					}
					small := oracle.shrink(t, table, batch[i])
					t.Errorf("%s\n  %s", small, difference(table, small, oracle.ask(t, []request{small})[0]))
				}
			}
			t.Logf("%d requests: %v", len(requests), tally)
			if tally["match"] < count/10 {
				t.Errorf("the requests say little: %v", tally)
			}
		})
	}
}

// table imports the application and allows every path form: what is compared is the matching.
func (target target) table(t *testing.T) *routes.Table {
	t.Helper()
	table, notices, err := importer.Python(t.Context(), importer.PythonApp{
		Framework: target.framework, Target: target.module, Python: python(t), Dir: apps(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notices {
		t.Log(n)
	}
	data := append(table.YAML(), target.adjust...)
	again, _, err := routes.Parse("routes.yaml", data)
	if err != nil {
		t.Fatalf("the imported table does not parse: %v\n%s", err, data)
	}
	if target.adjust == "" {
		if diff := cmp.Diff(string(data), string(again.YAML())); diff != "" {
			t.Fatalf("YAML and back: %s", diff)
		}
	}
	return again.Allowing(routes.AllForms())
}

// difference says how our answer differs from the framework's, or "".
func difference(table *routes.Table, r request, theirs answer) string {
	match := table.Match(r.Method, r.Host, r.Path)
	if theirs.Outcome == "unparsed" {
		return "" // the server answers 400 before there is an application
	}
	if theirs.Outcome == "error" && table.Framework() == routes.Django && len(r.Path) > 2000 && match.Outcome == routes.Redirect {
		return "" // Django answers 400 instead of a redirect to more than 2048 characters
	}
	if theirs.Outcome == "error" {
		theirs.Outcome = "404" // 500 before any view is reached
	}
	if r.Method == routes.WebSocket && table.Framework() == routes.Django && match.Outcome == routes.NotFound {
		return "" // WSGI serves it as a GET: the gate denies what opens a WebSocket and has no route
	}
	if table.Framework() == routes.Django && match.Route != nil {
		if theirs.Outcome == "405" && match.Outcome == routes.Matched && (match.Route.Methods == nil || match.Route.Name == "posts") {
			return "" // ANY: the view's code decides; posts: a decorator on dispatch takes fewer methods than the table has
		}
		rest := strings.HasPrefix(match.Route.Template, "/rest/")
		if rest && theirs.Outcome == "404" && match.Outcome != routes.Redirect {
			return "" // REST framework's view refuses the format
		}
		if strings.HasPrefix(r.Path, "/") && r.Method == "OPTIONS" && match.Outcome == routes.Matched && theirs.Outcome == "match" && theirs.Name != match.Route.Name && len(theirs.Params) == 0 {
			return "" // a description of the view
		}
	}
	if theirs.Outcome == "redirect" && match.Outcome == routes.NotFound && match.Route == nil && table.Framework() == routes.Django {
		return "" // LocaleMiddleware sends what is not found to the path with the language, which reaches no view here
	}
	ours := asAnswer(match)
	slow := asAnswer(table.MatchInOrder(r.Method, r.Host, r.Path))
	if diff := cmp.Diff(slow, ours); diff != "" {
		return "tree (+) and order (-) differ: " + diff
	}
	if ours.Outcome == "refused" && match.Route == nil && len(r.Path) > 4096 {
		return "" // too long for an expression with a lookaround
	}
	if ours.Outcome == "refused" && match.Route != nil && match.Route.Unsupported != "" {
		return "" // a route that can't be expressed may take it: that is said, not guessed
	}
	if theirs.Outcome == "match" && ours.Outcome == "match" {
		for i := range match.Also { // the first may have refused a value: the one that was taken must be among them
			if match.Also[i].Route.Name == theirs.Name {
				ours = asAnswer(match.Also[i])
			}
		}
	}
	if len(match.Also) > 0 && theirs.Outcome == "404" {
		return "" // all of them refused
	}
	if theirs.Outcome != "match" {
		theirs = answer{Outcome: theirs.Outcome}
	}
	if ours.Outcome != "match" {
		ours = answer{Outcome: ours.Outcome}
	}
	if theirs.Name == "" {
		ours.Name, ours.Route, ours.Params, theirs.Params = "", "", nil, nil // an answer to HEAD has no body
	}
	if theirs.Route == "" {
		ours.Route = ""
	} else if plain(theirs.Route) == plain(ours.Route) {
		ours.Route = theirs.Route
	}
	if len(theirs.Params) == 0 {
		theirs.Params = nil
	}
	return cmp.Diff(theirs, ours)
}

// plain drops the anchors and the leading slash that Django leaves out of a route's text in some places.
func plain(route string) string {
	return strings.TrimPrefix(strings.ReplaceAll(route, "^", ""), "/")
}

func asAnswer(m routes.Match) answer {
	a := answer{Outcome: m.Outcome.String()}
	if m.Outcome == routes.Matched {
		a.Name, a.Route = m.Route.Name, m.Route.Template
	}
	for _, p := range m.Params {
		if a.Params == nil {
			a.Params = map[string]string{}
		}
		a.Params[p.Name] = p.Value
	}
	return a
}

// oracle is a running framework.
type oracle struct {
	in  io.Writer
	out *bufio.Scanner
}

func startOracle(t *testing.T, kind, module string) *oracle {
	t.Helper()
	cmd := exec.Command(python(t), "-B", filepath.Join(apps(t), "..", "oracle.py"), kind, module)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("oracle: %v\n%s", err, stderr.String())
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &oracle{in: in, out: lines}
}

// ask sends requests and reads as many answers, concurrently, because pipes are short.
func (o *oracle) ask(t *testing.T, requests []request) []answer {
	t.Helper()
	go func() {
		w := bufio.NewWriter(o.in)
		defer w.Flush()
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		for _, r := range requests {
			if encoder.Encode(r) != nil {
				return
			}
		}
	}()
	answers := make([]answer, len(requests))
	for i := range answers {
		if !o.out.Scan() {
			t.Fatalf("the oracle ended at %s: %v", requests[i], o.out.Err())
		}
		if err := json.Unmarshal(o.out.Bytes(), &answers[i]); err != nil {
			t.Fatalf("%s: %q: %v", requests[i], o.out.Text(), err)
		}
	}
	return answers
}

// shrink removes ever smaller stretches of the path for as long as the answers differ.
func (o *oracle) shrink(t *testing.T, table *routes.Table, r request) request {
	for size := len(r.Path) / 2; size > 0; {
		var smaller []request
		for at := 1; at+size <= len(r.Path); at += max(1, size/2) {
			s := r
			s.Path = r.Path[:at] + r.Path[at+size:]
			smaller = append(smaller, s)
		}
		found := false
		for i, theirs := range o.ask(t, smaller) {
			if !found && difference(table, smaller[i], theirs) != "" {
				r, found = smaller[i], true
			}
		}
		if !found || size > len(r.Path) {
			size /= 2
		}
	}
	return r
}

// generate makes requests around the table's own templates. The same seed gives the same requests.
func generate(table *routes.Table, hosts []string, count int) []request {
	seed := uint64(1)
	if text := os.Getenv("GATEHOUSE_ROUTES_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	g := generator{rand.New(rand.NewPCG(seed, 2))}
	all := table.Routes()
	var requests []request
	for len(requests) < count {
		r := all[g.IntN(len(all))]
		path := g.fill(r.Template)
		for range g.IntN(3) {
			path = g.mutate(path)
		}
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		if g.IntN(12) == 0 {
			path += "?q=/x"
		}
		host := "x.test"
		if len(hosts) > 0 {
			host = hosts[g.IntN(len(hosts))]
		}
		req := request{Method: g.method(r), Host: host, Path: path}
		requests = append(requests, req)
	}
	for i := range requests { // what Envoy's path is cut to
		requests[i].Path, _, _ = strings.Cut(requests[i].Path, "?")
	}
	return requests
}

type generator struct{ *rand.Rand }

func (g generator) pick(from ...string) string { return from[g.IntN(len(from))] }

func (g generator) method(r *routes.Route) string {
	if len(r.Methods) > 0 && g.IntN(4) > 0 {
		return r.Methods[g.IntN(len(r.Methods))]
	}
	return g.pick("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "PURGE", "WEBSOCKET")
}

// fill puts a value, often a fitting one, in every place of a template; expressions give way to likely text.
func (g generator) fill(template string) string {
	out := ""
	for template != "" {
		open := strings.IndexAny(template, "<{(")
		if open < 0 {
			return out + g.literal(template)
		}
		out += g.literal(template[:open])
		end := closing(template[open:])
		out += g.value(template[open : open+end])
		template = template[open+end:]
	}
	return out
}

// closing returns the length of the bracketed text at the start of s.
func closing(s string) int {
	depth := 0
	for i := range s {
		switch s[i] {
		case '<', '{', '(':
			depth++
		case '>', '}', ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

func (g generator) literal(text string) string {
	out := ""
	for _, r := range text {
		switch {
		case strings.ContainsRune("^$?\\*+", r) && g.IntN(8) > 0:
		case r > 0x7e || r == '%' || r == '#':
			out += escaped(string(r))
		case g.IntN(200) == 0:
			out += escaped(string(r))
		default:
			out += string(r)
		}
	}
	return out
}

func escaped(s string) string {
	out := ""
	for _, b := range []byte(s) {
		out += fmt.Sprintf("%%%02X", b)
	}
	return out
}

func (g generator) value(param string) string {
	uuids := []string{"0f8fad5b-d9cb-469f-a165-70867728950e", "0F8FAD5B-D9CB-469F-A165-70867728950E", "0f8fad5bd9cb469fa16570867728950e", "0f8fad5b-d9cb-469f-a165-70867728950"}
	if g.IntN(6) > 0 {
		switch {
		case strings.Contains(param, "uuid"):
			return g.pick(uuids...)
		case strings.Contains(param, "float"):
			return g.pick("1.5", "0.0", "-2.25", "3", "1.", ".5", "2.5", "2.6", "99999999999999999999.9")
		case strings.Contains(param, "int"), strings.Contains(param, "d+"), strings.Contains(param, "[0-9]"), strings.Contains(param, "yyyy"):
			if g.IntN(60) == 0 { // around CPython's limit on int(str)
				return strings.Repeat(g.pick("7", "0", "%D9%A3"), 4299+g.IntN(4))
			}
			return g.pick("1", "17", "0005", "2024", "5", "20", "21", "-3", "-4", "0", "123456789012345678901234567890", "7x", "01")
		case strings.Contains(param, "path"):
			return g.pick("a", "a/b", "a/b/c", "a//b", "x/edit", "a/sep/b", "v1", "a/v2", "special", "mine", "b%2Fc", "a%0Ab", "")
		case strings.Contains(param, "any("):
			return g.pick("about", "help", "foo,bar", "foo%2Cbar", "a", "ab", "abc", "foo")
		case strings.Contains(param, "lang") || strings.Contains(param, "length"):
			return g.pick("en", "de", "abc", "abcde", "abcdefg", "%C3%A9%C3%A9", "x")
		case strings.Contains(param, "slug"):
			return g.pick("a-b", "a_b", "A1", "a.b", "caf%C3%A9")
		}
	}
	return g.pick("x", "v1x", "v1x", "new", "mine", "me", "about", "a-b", "a.b", "a.json", "abc", "a+b", "a%2Bb", "%20", "a%2Fb", "a%0A", "%0Aa", "%E2%82%AC",
		"%FF", "%E2%82", "%ED%A0%80", "%25", "%2541", "%zz", "%", "1", "42", "%D9%A3", "%F0%9D%9F%98", "a;b=c", ";", "~", "", ".", "..", "%2e%2e", "v1", "a:b", "=", "1-2", "12z", "jpg.png", "x.jpeg")
}

// mutate makes a path nearly valid.
func (g generator) mutate(path string) string {
	at := g.IntN(len(path) + 1)
	switch g.IntN(14) {
	case 0:
		return path + "/"
	case 1:
		return strings.TrimSuffix(path, "/")
	case 2:
		return path[:at] + "/" + path[at:]
	case 3:
		return "/" + path
	case 4:
		return path + g.pick("%0A", "/x", "x", "%2F", "//", "/.", "%", "%00", "%E9")
	case 5:
		if at < len(path) {
			return path[:at] + path[at+1:]
		}
	case 6:
		if at < len(path) && path[at] != '%' {
			return path[:at] + escaped(path[at:at+1]) + path[at+1:]
		}
	case 7:
		return strings.Replace(path, "/", "%2F", 1+g.IntN(2))
	case 8:
		if i := strings.LastIndexByte(path, '/'); i > 0 {
			return path[:i]
		}
	case 9:
		return strings.ToUpper(path)
	case 10:
		return g.pick("/api/v1", "/api/v1x", "/api/v1/api/v1", "/mnt", "/mnt/deep", "/sub", "/api", "/static", "/elsewhere", "/tenants/t", "/fall", "/admin", "/de", "/en", "/pt-br", "/DE", "/de-at", "/zh-hans", "/zh", "/xx") + path
	case 11:
		return strings.Replace(path, "%2F", "/", 1)
	case 12:
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			return path[:i+1] + g.value("")
		}
	}
	return path
}

// interpreter is looked for once: each look starts interpreters.
var interpreter = sync.OnceValues(func() (string, error) { return sandbox.Frameworks(context.Background(), "..") })

// python is the interpreter that has the frameworks.
func python(t testing.TB) string {
	t.Helper()
	p, err := interpreter()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func apps(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("testdata", "apps"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
