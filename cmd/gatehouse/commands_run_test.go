package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"gatehouse/control"
)

// commandLines are command lines of each command in the folder of commandFolder, without the program's name: one that ends with 0, and one that
// ends with 1 where the command can say no.
func commandLines() map[string][2]string {
	return map[string][2]string{
		"bench":                          {"bench --time 20ms tests.yaml", ""},
		"bundle build":                   {"bundle build policy -t shop:2", ""},
		"bundle diff":                    {"bundle diff policy policy --requests tests.yaml", "bundle diff policy stricter --requests tests.yaml"},
		"bundle history":                 {"bundle history", ""},
		"bundle images":                  {"bundle images", ""},
		"bundle inspect":                 {"bundle inspect policy", ""},
		"bundle logout":                  {"bundle logout registry.example.com", ""},
		"bundle rm":                      {"bundle rm $IMAGE", ""},
		"bundle rollback":                {"bundle rollback --to $POLICY", ""},
		"bundle save":                    {"bundle save shop:1 --out saved.tar.gz", ""},
		"bundle sign":                    {"bundle sign shop.tar.gz --key private.pem --out signed.tar.gz", ""},
		"bundle tag":                     {"bundle tag shop:1 shop:3", ""},
		"bundle test":                    {"bundle test", "bundle test failing"},
		"bundle unpin":                   {"bundle unpin", ""},
		"bundle verify":                  {"bundle verify signed.tar.gz --key public.pem", "bundle verify shop.tar.gz --key public.pem"},
		"check":                          {"check GET /orders --as vera --role viewer", "check DELETE /orders/1 --as vera --role viewer"},
		"config explain":                 {"config explain policy.bundles", "config explain policy.bundels"},
		"config validate":                {"config validate", "config validate broken.yaml"},
		"control changes":                {"control changes", ""},
		"control decisions":              {"control decisions --user alice --denied --since 1h", ""},
		"control export":                 {"control export --out decisions.jsonl", ""},
		"control hold":                   {"control hold $HOLD --why asked", ""},
		"control retention":              {"control retention --deny 365d", ""},
		"control verify-log":             {"control verify-log --data control-data", ""},
		"control directory delete":       {"control directory delete group:eng#member@user:alice", ""},
		"control directory import":       {"control directory import directory", ""},
		"control directory set":          {"control directory set user:alice group:eng#member@user:alice --expires 7d", ""},
		"control directory sync":         {"control directory sync directory --source hr --dry-run", ""},
		"control enroll":                 {"control enroll --expires 2d", ""},
		"control environment":            {"control environment $ENVIRONMENT", ""},
		"control revoke":                 {"", ""}, // of an edge that is there: docs/control.md
		"control status":                 {"control status", ""},
		"control audit":                  {"control audit", ""},
		"control diff":                   {"control diff $REVISION $REVISION", ""},
		"control history":                {"control history", ""},
		"control promote":                {"control promote $REVISION", ""},
		"control push":                   {"control push policy --decision shop/allow", "control push failing --decision shop/allow"},
		"control revisions":              {"control revisions", ""},
		"control guard":                  {"control guard --errors 0.02", ""},
		"control rollout":                {"control rollout show", ""},
		"control rollback":               {"", ""}, // there is nothing before the first: docs/control-policies.md
		"control token create":           {"control token create app --scope read:default/prod --expires 7d", ""},
		"control token list":             {"control token list", ""},
		"control token revoke":           {"control token revoke $TOKEN", ""},
		"directory check":                {"directory check directory group:eng#member@user:alice", "directory check directory group:eng#member@user:bob"},
		"directory diff":                 {"directory diff directory directory", "directory diff directory other"},
		"directory export":               {"directory export directory --jsonl", ""},
		"directory from csv":             {"directory from csv users.csv --out made --force", ""},
		"directory from keycloak-export": {"directory from keycloak-export realm.json --out made --force", ""},
		"directory from ldif":            {"directory from ldif people.ldif --out made --force", ""},
		"directory get":                  {"directory get directory user:alice", "directory get directory user:nobody"},
		"directory graph":                {"directory graph directory group:eng member user", ""},
		"directory import":               {"directory import directory --out directory.snapshot", ""},
		"directory stats":                {"directory stats directory", ""},
		"directory validate":             {"directory validate directory", "directory validate --manifest narrow.yaml directory"},
		"directory what":                 {"directory what directory alice member", ""},
		"directory who":                  {"directory who directory member group:eng", ""},
		"directory why":                  {"directory why directory group:eng#member@user:alice", "directory why directory group:eng#member@user:bob"},
		"docs builtins":                  {"docs builtins", ""},
		"docs cli":                       {"docs cli", ""},
		"docs config":                    {"docs config", ""},
		"docs doctor":                    {"docs doctor", ""},
		"docs man":                       {"docs man man", ""},
		"doctor":                         {"doctor envoy.yaml", "doctor open.yaml"},
		"envoy generate":                 {"envoy generate", ""},
		"eval":                           {"eval data.shop", "eval data.nowhere"},
		"explain":                        {"explain X52SYXKMIAKADSS3G7SJLR6UBZ", "explain AAAAAAAAAA"},
		"fmt":                            {"fmt policy", "fmt --check ugly"},
		"identity new-key":               {"identity new-key --subject ci --expires 90d", ""},
		"init":                           {"init --openapi openapi.yaml --out written --force", ""},
		"k8s generate":                   {"k8s generate", ""},
		"lint":                           {"lint policy", "lint ugly"},
		"log coverage":                   {"log coverage", "log coverage --subject nobody"},
		"log grep":                       {"log grep orders", "log grep nothing-like-it"},
		"log stats":                      {"log stats", ""},
		"log tail":                       {"log tail --since 9000d", ""},
		"migrate":                        {"migrate opa.yaml", "migrate opa-lost.yaml --strict"},
		"reload":                         {"reload", ""}, // refused: TestStatusAndReload
		"replay":                         {"replay --expect expected.yaml", "replay --bundle stricter"},
		"routes import django":           {"", ""}, // they run the Python of applications: TestScripts/routes_import
		"routes import fastapi":          {"", ""},
		"routes import flask":            {"", ""},
		"routes import log":              {"routes import log decisions.log", ""},
		"routes import openapi":          {"routes import openapi openapi.yaml", "routes import openapi openapi.yaml --out routes.yaml --check"},
		"routes list":                    {"routes list", ""},
		"routes match":                   {"routes match GET /orders/17", ""},
		"status":                         {"status", ""},
		"top":                            {"top --once --every 200ms", ""},
		"test":                           {"test", "test failing.yaml"},
		"token mint":                     {"token mint --sub vera --expires 7d", ""},
		"token why":                      {"token why @good.token", "token why @bad.token"},
		"version":                        {"version", ""},

		"bundle login":  {"", ""}, // these four need a registry: TestBundleScripts/registry
		"bundle pull":   {"", ""},
		"bundle push":   {"", ""},
		"control serve": {"", ""}, // these run until they are stopped, and have tests of their own
		"demo":          {"", ""},
		"k8s inject":    {"", ""},
		"serve":         {"", ""},
		"up":            {"", ""},
	}
}

// commandFolder starts a gatehouse serve and a control plane, and makes the current folder one with whatever commandLines name. It returns what
// stands for names in them that are made for one command.
func commandFolder(t *testing.T) map[string]func() string {
	t.Helper()
	p := newProcess(t, `listen: {grpc: ["$GRPC"], admin: "$ADMIN", control: "unix:control.sock"}
identity: {jwt: [{issuer: "http://localhost/issuer", audiences: [shop], keys: {file: issuer/jwks.json}}]}
routes: {file: routes.yaml}
policy: {decision: shop/allow, bundles: [{name: shop, path: policy}]}
directory: {file: directory}
decision_log: {file: decisions.log}
`)
	if err := errors.Join(os.Remove(p.path("policy", "authz.rego")), os.CopyFS(p.path("log"), os.DirFS("testdata/log"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"routes.yaml", "decisions.log", "policy/shop.rego"} {
		if err := os.Rename(p.path("log", name), p.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	const deny = "package shop\n\ndefault allow := false\n"
	for name, text := range map[string]string{
		"policy/.manifest":         `{"revision": "v1"}`,
		"stricter/shop.rego":       deny,
		"failing/shop.rego":        deny,
		"failing/shop_test.rego":   "package shop_test\n\ntest_allow if data.shop.allow\n",
		"ugly/shop.rego":           "package shop\ndefault   allow := false\n",
		"tests.yaml":               "tests:\n  - allow: {as: vera, roles: [viewer], GET: /orders}\n",
		"failing.yaml":             "tests:\n  - deny: {as: vera, roles: [viewer], GET: /orders}\n",
		"broken.yaml":              "policy: {bundles: [{path: nowhere}]}\n",
		"directory/directory.yaml": "objects: [{type: user, id: alice}, {type: user, id: bob}, {type: group, id: eng}]\nrelations: [{object_type: group, object_id: eng, relation: member, subject_type: user, subject_id: alice}]\n",
		"other/directory.yaml":     "objects: [{type: user, id: alice}]\n",
		"narrow.yaml":              "model: {version: 3}\ntypes: {user: {}}\n",
		"users.csv":                "id,groups\nalice,eng\n",
		"people.ldif":              "dn: uid=alice,dc=example\nobjectClass: inetOrgPerson\nuid: alice\ncn: Alice\n",
		"realm.json":               `{"realm": "shop", "users": [{"username": "alice"}]}`,
		"openapi.yaml":             "openapi: 3.0.0\ninfo: {title: shop, version: '1'}\npaths: {/orders: {get: {operationId: list, responses: {'200': {description: ok}}}}}\n",
		"opa.yaml":                 "plugins: {envoy_ext_authz_grpc: {addr: ':9191', path: shop/allow}}\n",
		"opa-lost.yaml":            "plugins: {envoy_ext_authz_grpc: {addr: ':9191', path: shop/allow, grpc-max-send-msg-size: 1}}\n",
	} {
		write(t, p.path(filepath.FromSlash(name)), text)
	}
	private := signingKey(t, p.path("public.pem"))
	t.Chdir(p.dir)
	t.Setenv("GATEHOUSE_IMAGES", p.path("images"))
	t.Setenv("DOCKER_CONFIG", p.path("docker"))
	if err := os.Rename(private, "private.pem"); err != nil {
		t.Fatal(err)
	}
	run := func(file string, args ...string) string {
		t.Helper()
		stdout, stderr, code := invoke(t, args...)
		if code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, stderr)
		}
		if file != "" {
			write(t, file, stdout)
		}
		return stdout
	}
	run("good.token", "token", "mint", "--sub", "vera", "--role", "viewer")
	run("bad.token", "token", "mint", "--sub", "vera", "--aud", "another")
	run("envoy.yaml", "envoy", "generate")
	text, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, "open.yaml", strings.Replace(string(text), "failure_mode_allow: false", "failure_mode_allow: true", 1))
	run("", "bundle", "build", "policy", "--out", "shop.tar.gz", "-t", "shop:1")
	run("", "bundle", "sign", "shop.tar.gz", "--key", "private.pem", "--out", "signed.tar.gz")
	invoke(t, "replay", "--write-expect", "expected.yaml")
	p.ready()
	eventually(t, "waiting for the first policy", func() error {
		if _, out, _ := p.gatehouse("bundle", "history"); !strings.Contains(out, "* ") {
			return errors.New(out)
		}
		return nil
	})
	write(t, "policy/.manifest", `{"revision": "v2"}`)
	eventually(t, "waiting for the second policy", func() error {
		if s := p.status(); s.Bundles[0].Revision != "v2" {
			return errors.New(s.Bundles[0].Revision)
		}
		return nil
	})
	startControl(t)
	made := 0
	another := func(prefix string) string {
		made++
		return fmt.Sprint(prefix, made)
	}
	return map[string]func() string{
		"$ENVIRONMENT": func() string { return another("shop/n") },
		"$HOLD":        func() string { return another("case-") },
		"$POLICY": func() string { // the one that is not active
			if p.status().Bundles[0].Revision == "v1" {
				return "v2"
			}
			return "v1"
		},
		"$IMAGE": func() string {
			name := another("shop:n")
			run("", "bundle", "tag", "shop:1", name)
			return name
		},
		"$REVISION": func() string {
			return strings.TrimSpace(run("", "control", "push", "policy", "--decision", "shop/allow"))
		},
		"$TOKEN": func() string {
			var token struct{ ID string }
			text := run("", "control", "token", "create", "old", "--scope", "read:default/prod", "-o", "json")
			if err := json.Unmarshal([]byte(text), &token); err != nil || token.ID == "" {
				t.Fatalf("%v: %s", err, text)
			}
			return token.ID
		},
	}
}

// startControl runs a control plane in the current folder, and points the environment at it.
func startControl(t *testing.T) {
	t.Helper()
	address, out := freeAddress(t), &output{}
	ended := make(chan error, 1)
	go func() {
		ended <- control.Serve(t.Context(), control.Config{Dir: "control-data", Listen: address}, out, control.Log{To: io.Discard})
	}()
	t.Cleanup(func() { <-ended })
	token := regexp.MustCompile(`GATEHOUSE_CONTROL_TOKEN=(\S+)\n`)
	eventually(t, "waiting for control", func() error {
		if !token.MatchString(out.String()) {
			return errors.New(out.String())
		}
		return nil
	})
	t.Setenv("GATEHOUSE_CONTROL_URL", "https://"+address)
	t.Setenv("GATEHOUSE_CONTROL_CA", filepath.Join("control-data", "ca.pem"))
	t.Setenv("GATEHOUSE_CONTROL_TOKEN", token.FindStringSubmatch(out.String())[1])
}

// TestExitCodesOfCommands runs every command: 0 where all is well, 1 where the answer is no, 2 where it could not be done; and what -o json prints
// is JSON. A command that is not in commandLines fails it.
func TestExitCodesOfCommands(t *testing.T) {
	names := commandFolder(t)
	lines := commandLines()
	fill := func(line string) []string {
		args := strings.Fields(line)
		for i, arg := range args {
			if made := names[arg]; made != nil {
				args[i] = made()
			}
		}
		return args
	}
	eachCommand(rootCommand(), func(c *cobra.Command) {
		if c.HasSubCommands() || c.Name() == "help" || c.Parent().Name() == "completion" {
			return
		}
		name := strings.TrimPrefix(c.CommandPath(), "gatehouse ")
		line, ok := lines[name]
		if !ok {
			t.Errorf("%s has no line in commandLines: add one that ends with 0, and one that ends with 1 if it can say no", name)
			return
		}
		delete(lines, name)
		for want, text := range line {
			if text == "" {
				continue
			}
			runs, each := []string{text}, false
			if o := c.Flags().Lookup("output"); o != nil && strings.HasPrefix(o.Value.Type(), "text|json") {
				runs = append(runs, text+" -o json")
				each = strings.Contains(o.Usage, "for each") || strings.Contains(o.Usage, "a line")
			}
			for i, run := range runs {
				args := fill(run)
				stdout, stderr, code := invoke(t, args...)
				if code != want {
					t.Errorf("%v: exit code %d, want %d\n%s%s", args, code, want, stdout, stderr)
				}
				if err := isJSON(stdout); i == 1 && err != nil && !(stdout == "" && (each || want == 1 && stderr != "")) { // a no may be an error
					t.Errorf("%v: not JSON: %v\n%s", args, err, stdout)
				}
				if strings.Contains(stderr, "this version only") {
					t.Errorf("%v: an old spelling: %s", args, stderr)
				}
			}
		}
		if c.Flags().Lookup("config") != nil && line[0] != "" {
			args := append(fill(line[0]), "--config", "nowhere.yaml")
			if stdout, stderr, code := invoke(t, args...); code != 2 || stderr == "" {
				t.Errorf("%v: exit code %d, want 2\n%s%s", args, code, stdout, stderr)
			}
		}
	})
	for name := range lines {
		t.Errorf("commandLines has %s, and there is no such command", name)
	}
}

// isJSON reports whether a text is one document of JSON or more.
func isJSON(text string) error {
	documents := 0
	for d := json.NewDecoder(strings.NewReader(text)); ; documents++ {
		var value any
		if err := d.Decode(&value); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if documents == 0 {
		return errors.New("it is empty")
	}
	return nil
}

// eachCommand visits a command and all below it.
func eachCommand(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, below := range c.Commands() {
		eachCommand(below, visit)
	}
}
