package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/envoy/sandbox"
	"gatehouse/identity/apikey"
)

const clientsHeader = `
listen: {grpc: ["$GRPC"], admin: "$ADMIN", directory: {grpc: ["$DIRECTORY"], tls: {cert: tls.crt, key: tls.key}, keys: keys.yaml}}
directory: {file: directory, user: {by: id}}
policy: {bundles: [{path: policy}]}
decision_log: {file: decisions.log}
`

// TestAsertoClients has Aserto's own Python packages ask, unmodified: the Flask example with its decorator and its display state map,
// and the directory's client.
func TestAsertoClients(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the Python packages")
	}
	t.Parallel()
	c := newClients(t, strings.Replace(clientsHeader, "keys: keys.yaml", "keys: keys.yaml, queries: true", 1))
	got := c.run("clients.py")
	decided := func(allowed, enabled bool) map[string]any {
		return map[string]any{"allowed": allowed, "visible": true, "enabled": enabled}
	}
	tree := func(enabled bool) map[string]any {
		return map[string]any{"example/GET/protected_route/__parameter": map[string]any{"visible": true, "enabled": enabled}}
	}
	want := map[string]any{
		"vera": 200.0, "bob": 403.0, "bob public": 200.0, "nobody": 403.0,
		"map of vera":    tree(true),
		"map of bob":     tree(false),
		"unknown path":   map[string]any{"allowed": false},
		"no key":         "UNAUTHENTICATED",
		"wrong key":      "UNAUTHENTICATED",
		"naming a user":  "PERMISSION_DENIED",
		"a forged token": "INVALID_ARGUMENT",
		"check":          []any{true, false},
		"object":         "vera",
		"no object":      "NOT_FOUND",
		"users":          []any{"bob", "vera"},
		"graph":          []any{"vera"},
		"manifest":       true,
		"write":          "UNIMPLEMENTED",

		"decisions of vera": decided(true, true), "decisions of bob": decided(true, false),
		"tree of vera": tree(true), "tree of bob": tree(false),
		"query":                     []any{[]any{map[string]any{"x": true, "y": "vera"}}, []any{map[string]any{"x": true, "y": "bob"}}, []any{}},
		"query of the directory":    []any{map[string]any{"x": true}},
		"query that fails":          "FAILED_PRECONDITION",
		"query for another user":    []any{map[string]any{"x": "vera"}},
		"query out of bounds":       "INVALID_ARGUMENT",
		"query without the scope":   "PERMISSION_DENIED",
		"query without a right key": "UNAUTHENTICATED",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the clients got (-want +got):\n%s\n%s", diff, c.stderr.String())
	}
	logged, err := os.ReadFile(c.path("decisions.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(logged), `"path":"example.GET.protected_route.__parameter/`); n < 9 {
		t.Errorf("%d decisions are on record, want each:\n%s", n, logged)
	}
}

// clients is a service with the Flask example's policy and directory, and what Python needs to ask it.
type clients struct {
	*process
	python, example string
	env             []string
}

func newClients(t *testing.T, header string) *clients {
	t.Helper()
	root := filepath.Join("..", "..")
	python, err := sandbox.Clients(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	c := &clients{process: newProcess(t, strings.Replace(header, "$DIRECTORY", address, 1)), python: python, example: filepath.Join(root, "examples", "flask-aserto")}
	for _, folder := range []string{"policy", "directory"} {
		if err := os.CopyFS(c.path(folder), os.DirFS(filepath.Join(c.example, folder))); err != nil {
			t.Fatal(err)
		}
	}
	ca := newAuthority(t)
	cert, key := ca.issue(t, "localhost")
	write(t, c.path("ca.crt"), ca.pem())
	write(t, c.path("tls.crt"), cert)
	write(t, c.path("tls.key"), key)
	full, limited, asking := newClientKey(t, "app", "act-as", "write"), newClientKey(t, "other"), newClientKey(t, "analyst", "act-as", "query")
	file := full.YAML()
	for _, k := range []apikey.Key{limited, asking} {
		if file, err = k.AppendTo("keys.yaml", file); err != nil {
			t.Fatal(err)
		}
	}
	write(t, c.path("keys.yaml"), string(file))
	c.ready()
	c.env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "AUTHORIZER_URL=localhost:"+address[strings.LastIndex(address, ":")+1:],
		"AUTHORIZER_API_KEY="+full.Reveal(), "OTHER_KEY="+limited.Reveal(), "QUERY_KEY="+asking.Reveal(), "AUTHORIZER_CERT="+c.path("ca.crt"))
	return c
}

// run runs a script of testdata in the example's folder, and is the JSON that it prints.
func (c *clients) run(name string) (got map[string]any) {
	c.t.Helper()
	script, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.CommandContext(c.t.Context(), c.python, script)
	cmd.Dir, cmd.Env = c.example, c.env
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("%v\n%s\n%s", err, problems.String(), c.stderr.String())
	}
	if err := json.Unmarshal(out, &got); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	return got
}

// TestAsertoDirectoryWrites has Aserto's own Python package write, unmodified: where the node owns its directory, and where it does not.
func TestAsertoDirectoryWrites(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the Python packages")
	}
	t.Parallel()
	header := strings.Replace(clientsHeader, "{file: directory,", "{file: directory, writable: true,", 1)
	if got := newClients(t, clientsHeader).run("clients_write.py"); len(got) != 1 || !strings.Contains(fmt.Sprint(got["refused"]), "the directory of this node is read from directory.file") {
		t.Errorf("a node that reads its directory: %v", got)
	}
	c := newClients(t, header+"state_dir: state\n")
	want := map[string]any{
		"set":              "Eve",
		"check":            []any{false, true, false},
		"etag":             "ETagMismatchError",
		"manifest etag":    "ETagMismatchError",
		"wrong manifest":   "INVALID_ARGUMENT",
		"deleted":          "NotFoundError",
		"with relations":   "INVALID_ARGUMENT",
		"import":           []any{[]any{3.0, 2.0, 0.0, 1.0}, []any{1.0, 1.0, 0.0, 0.0}},
		"exported":         []any{"bob", "yan", "zoe"},
		"another's key":    "PERMISSION_DENIED",
		"unknown type":     "INVALID_ARGUMENT",
		"manifest":         true,
		"manifest, though": nil,
	}
	if diff := cmp.Diff(want, c.run("clients_write.py")); diff != "" {
		t.Errorf("the client got (-want +got):\n%s\n%s", diff, c.stderr.String())
	}
	if printed := c.stderr.String(); strings.Count(printed, "directory written") < 7 || !strings.Contains(printed, `"by":"app"`) || !strings.Contains(printed, "set group:viewers#member@user:eve") {
		t.Errorf("not each write is on record:\n%s", printed)
	}
}

// TestWritingPage follows docs/clients.md, "Writing", in an empty folder: its files, and each of its commands but pip's.
func TestWritingPage(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the Python packages")
	}
	t.Parallel()
	python, err := sandbox.Clients(t.Context(), filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(text), "\n## Writing\n")
	page, _, _ = strings.Cut(page, "\n## ")
	port := freeAddress(t)[len("127.0.0.1:"):]
	block := func(kind string) string {
		_, rest, found := strings.Cut(page, "```"+kind+"\n")
		body, _, closed := strings.Cut(rest, "```")
		if !found || !closed {
			t.Fatalf("there is no block of %s", kind)
		}
		return strings.ReplaceAll(body, "9195", port)
	}
	p := newProcess(t, strings.Replace(block("yaml"), "listen:\n", "listen:\n  grpc: [\"$GRPC\"]\n  admin: \"$ADMIN\"\n", 1))
	if err := os.RemoveAll(p.path("policy")); err != nil {
		t.Fatal(err)
	}
	write(t, p.path("write.py"), block("python"))
	var before, after []string
	list := &before
	for line := range strings.Lines(page) {
		command, indented := strings.CutPrefix(line, "    ")
		switch {
		case !indented || strings.Contains(page[:strings.Index(page, line)], "```") && strings.Count(page[:strings.Index(page, line)], "```")%2 == 1:
		case strings.HasPrefix(command, "gatehouse serve "):
			list = &after
		case !strings.HasPrefix(command, "pip "):
			*list = append(*list, strings.TrimSpace(command))
		}
	}
	shell := func(commands string) string {
		cmd := exec.CommandContext(t.Context(), "bash", "-ec", commands)
		cmd.Dir, cmd.Stderr = p.dir, &p.stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s\n%v\n%s", commands, err, p.stderr.String())
		}
		return string(out)
	}
	key := shell(strings.Join(before, "\n") + "\nprintf %s \"$KEY\"")
	p.ready()
	if len(before) != 3 || len(after) != 2 {
		t.Fatalf("%q and %q", before, after)
	}
	for _, command := range after {
		said, wanted, _ := strings.Cut(command, " # ")
		wanted, _, _ = strings.Cut(wanted, ":")
		if got := shell("export KEY='" + key + "'\npython() { '" + python + "' \"$@\"; }\n" + said); got != wanted+"\n" {
			t.Errorf("%s printed %q, and the page says %q", said, got, wanted)
		}
	}
}

func newClientKey(t *testing.T, subject string, scopes ...string) apikey.Key {
	t.Helper()
	k, err := apikey.New(apikey.Entry{Subject: subject, Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	return k
}
