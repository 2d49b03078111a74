package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/server"
	"gatehouse/trial/node"
)

// migrated runs the command on an OPA configuration and reads the result as serve would.
func migrated(t *testing.T, opa string, args ...string) (cfg *config.Config, result, messages string) {
	t.Helper()
	dir := t.TempDir()
	file, output := filepath.Join(dir, "opa.yaml"), filepath.Join(dir, "gatehouse.yaml")
	write(t, file, opa)
	code, _, messages := command(t, append([]string{"migrate", file, "--out", output}, args...)...)
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, messages)
	}
	text, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	cfg, doc, err := config.Source{File: output}.Read()
	if err != nil || len(doc.Errs) > 0 {
		t.Fatalf("the result does not load: %v, %v\n%s", err, doc.Errs, text)
	}
	return cfg, string(text), strings.ReplaceAll(messages, dir+"/", "")
}

// command runs gatehouse in this process.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = run(t.Context(), args, &out, &errOut)
	return code, out.String(), errOut.String()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func plugin(settings string) string {
	return "plugins:\n  envoy_ext_authz_grpc:\n    " + strings.ReplaceAll(settings, "\n", "\n    ") + "\n"
}

func TestMigrateKeepsMeaning(t *testing.T) {
	t.Setenv("PORT", "9000")
	t.Setenv("DRY", "true")
	base := func(change func(*config.Config)) *config.Config {
		cfg := config.Default()
		cfg.Policy.Decision = config.DefaultDecision
		cfg.Listen.GRPC = []string{":9191"}
		cfg.Paths.Compat = true
		cfg.Limits.Message = 4 << 20
		if change != nil {
			change(cfg)
		}
		return cfg
	}
	for name, test := range map[string]struct {
		opa  string
		want *config.Config
	}{
		"nothing at all":       {"", base(nil)},
		"an empty plugin":      {plugin("{}"), base(nil)},
		"address":              {plugin("addr: 0.0.0.0:9000"), base(func(c *config.Config) { c.Listen.GRPC = []string{"0.0.0.0:9000"} })},
		"address with scheme":  {plugin("addr: grpc://127.0.0.1:9000"), base(func(c *config.Config) { c.Listen.GRPC = []string{"127.0.0.1:9000"} })},
		"address of variables": {plugin("addr: :${PORT}"), base(func(c *config.Config) { c.Listen.GRPC = []string{":9000"} })},
		"unix socket":          {plugin("addr: unix:///run/opa.sock"), base(func(c *config.Config) { c.Listen.GRPC = []string{"unix:/run/opa.sock"} })},
		"path":                 {plugin("path: istio/authz/allow"), base(func(c *config.Config) { c.Policy.Decision = "istio/authz/allow" })},
		"path with a slash":    {plugin("path: /istio/authz/allow"), base(func(c *config.Config) { c.Policy.Decision = "istio/authz/allow" })},
		"query":                {plugin("query: data.istio.authz.allow"), base(func(c *config.Config) { c.Policy.Decision = "istio/authz/allow" })},
		"query with brackets":  {plugin(`query: data["is-tio"].authz["allow"]`), base(func(c *config.Config) { c.Policy.Decision = "is-tio/authz/allow" })},
		"dry run":              {plugin("dry-run: true"), base(func(c *config.Config) { c.DryRun.Always = true })},
		"dry run by variable":  {plugin("dry-run: ${DRY}"), base(func(c *config.Config) { c.DryRun.Always = true })},
		"no dry run":           {plugin("dry-run: false"), base(nil)},
		"protos":               {plugin("proto-descriptor: /etc/orders.pb"), base(func(c *config.Config) { c.Policy.Protos = "/etc/orders.pb" })},
		"size":                 {plugin("grpc-max-recv-msg-size: 65536"), base(func(c *config.Config) { c.Limits.Message = 64 << 10 })},
		"odd size":             {plugin("grpc-max-recv-msg-size: 1000001"), base(func(c *config.Config) { c.Limits.Message = 1000001 })},
		"log on the console":   {"decision_logs: {console: true}", base(func(c *config.Config) { c.DecisionLog.File = "-" })},
		"labels": {`labels: {app: "a # b", n: "1", q: "\"'"}`,
			base(func(c *config.Config) { c.DecisionLog.Labels = map[string]string{"app": "a # b", "n": "1", "q": `"'`} })},
		"traces": {"distributed_tracing: {type: grpc}",
			base(func(c *config.Config) { c.Traces.OTLP, c.Traces.Insecure, c.Traces.Ratio = "localhost:4317", true, 1 })},
		"JSON": {`{"plugins": {"envoy_ext_authz_grpc": {"addr": ":1234", "path": "a/b"}}}`,
			base(func(c *config.Config) { c.Listen.GRPC, c.Policy.Decision = []string{":1234"}, "a/b" })},
	} {
		t.Run(name, func(t *testing.T) {
			got, text, messages := migrated(t, test.opa)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s\n%s", diff, text)
			}
			if !strings.HasSuffix(messages, "with everything carried over\n") {
				t.Errorf("messages:\n%s", messages)
			}
		})
	}
}

// TestMigrateNamesEverySetting holds that nothing is dropped silently: each key of a configuration that has them all is
// either in the result or named, on standard error and in the result, and no secret is.
func TestMigrateNamesEverySetting(t *testing.T) {
	t.Setenv("REGION", "eu")
	t.Setenv("DRY_RUN", "false")
	opa, err := os.ReadFile("testdata/migrate/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, text, messages := migrated(t, string(opa))
	comments := strings.Join(strings.Fields(strings.ReplaceAll(text, "#", "")), " ")
	for line := range strings.Lines(messages) {
		_, printed, _ := strings.Cut(strings.TrimSpace(line), ": ") // without the file, whose folder was cut off
		if !strings.HasPrefix(line, "wrote ") && !strings.Contains(comments, printed) {
			t.Errorf("not in the result: %s", line)
		}
	}
	var root yaml.Node
	if err := yaml.Unmarshal(opa, &root); err != nil {
		t.Fatal(err)
	}
	carried := map[string]bool{"labels.app": true, "bundles.on disk.resource": true, "decision_logs.console": true,
		"distributed_tracing.type": true, "distributed_tracing.address": true, "distributed_tracing.sample_percentage": true,
		"distributed_tracing.encryption": true, "services.registry.type": true, "bundles.images/app.service": true, "bundles.images/app.resource": true,
		"bundles.unnamed.service": true, "bundles.packed.resource": true, "bundles.authz.service": true, "bundles.authz.persist": true,
		"bundles.authz.polling.min_delay_seconds": true, "bundles.authz.polling.max_delay_seconds": true, "bundles.authz.signing.keyid": true, "bundles.authz.signing.scope": true,
		"decision_logs.service": true, "decision_logs.mask_decision": true, "decision_logs.drop_decision": true, "decision_logs.reporting.min_delay_seconds": true,
		"decision_logs.partition_name": true, "status.service": true, "keys.global_key.algorithm": true, "persistence_directory": true,
		"services.registry.url": true, "caching.inter_query_builtin_cache.max_size_bytes": true} // an image's reference names its registry
	for _, key := range []string{"addr", "query", "dry-run", "proto-descriptor", "grpc-max-recv-msg-size"} {
		carried["plugins.envoy_ext_authz_grpc."+key] = true
	}
	for _, key := range leaves(root.Content[0], "") {
		if !carried[key] && !named(messages, key) {
			t.Errorf("%s: neither carried over nor named", key)
		}
	}
	for _, where := range []string{text, messages} {
		if strings.Contains(where, "hunter2") || strings.Contains(where, "c3VwZXJ") {
			t.Errorf("a secret leaked:\n%s", where)
		}
	}
	never := config.Duration(0)
	want := config.Default()
	want.StateDir = "/var/opa/gatehouse"
	want.Listen.GRPC = []string{"unix:/run/opa/authz.sock"}
	want.Services = []config.Service{{Name: "acme", BearerFile: cfg.Services[0].BearerFile}}
	want.Policy.Decision, want.Policy.Protos = "istio/authz-v2/allow", cfg.Policy.Protos
	want.Policy.Bundles = []config.Bundle{
		{Name: "on-disk", Path: "/srv/policy"},
		{Name: "packed", Path: "/srv/policy.tar.gz"},
		{Name: "authz", URL: "https://control.example.com/v1/bundles/authz.tar.gz", Service: "acme", Interval: config.Duration(90 * time.Second), LongPoll: &never,
			Signing: &config.Signing{Keys: []config.SigningKey{{ID: "global_key", File: cfg.Policy.Bundles[2].Signing.Keys[0].File, Algorithm: "RS256", Scope: "write"}}}},
		{Name: "images-app", Image: "registry.example.com/policies/app:1.4"},
		{Name: "unnamed", URL: "https://control.example.com/v1/bundles/unnamed", Service: "acme", LongPoll: &never},
	}
	want.Policy.Capabilities.HTTPSend.Cache = 10000000
	want.Paths.Compat, want.Limits.Message = true, 40194304
	labels := map[string]string{"app": "orders", "region": "eu"}
	want.DecisionLog.Labels = labels
	want.DecisionLog.Sinks = []config.Sink{{File: "-"}, {OPA: &config.SinkServer{URL: "https://control.example.com/v1/logs/eu", Service: "acme", Delay: config.Duration(300 * time.Second)}}}
	want.Status.URL, want.Status.Service, want.Status.Labels = "https://control.example.com/v1/status", "acme", labels
	want.Traces.OTLP, want.Traces.Ratio = "collector.example.com:4317", 0.05
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for name, file := range map[string]string{"acme.token": cfg.Services[0].BearerFile, "global_key.pem": cfg.Policy.Bundles[2].Signing.Keys[0].File} {
		if filepath.Base(file) != name || !strings.Contains(messages, "put this one into "+name) {
			t.Errorf("%q is to be %s, and named", file, name)
		}
	}
}

func leaves(n *yaml.Node, path string) []string {
	if n.Kind != yaml.MappingNode {
		return []string{path}
	}
	var out []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		out = append(out, leaves(n.Content[i+1], strings.TrimPrefix(path+"."+n.Content[i].Value, "."))...)
	}
	return out
}

// named reports whether messages name a key: all of it, or its front with the rest in brackets.
func named(messages, key string) bool {
	for line := range strings.Lines(messages) {
		at, rest, _ := strings.Cut(line, ": ")
		what, _, _ := strings.Cut(rest, ": no")
		front, below, _ := strings.Cut(what, " (")
		if !strings.Contains(at, ":") {
			continue
		}
		if front == key {
			return true
		}
		for part := range strings.SplitSeq(strings.TrimSuffix(below, ")"), ", ") {
			if part != "" && front+"."+part == key {
				return true
			}
		}
	}
	return false
}

// TestMigrateResultStarts holds that a result passes everything that serve checks before it listens.
func TestMigrateResultStarts(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "policy", "authz.rego"), "package envoy.authz\n\ndefault allow := false\n")
	write(t, filepath.Join(dir, "more", ".manifest"), `{"roots": ["more"]}`)
	write(t, filepath.Join(dir, "more", "data.json"), `{"more": {"a": 1}}`)
	write(t, filepath.Join(dir, "policy", ".manifest"), `{"roots": ["envoy"]}`)
	cfg, text, messages := migrated(t, plugin("path: envoy/authz/allow"), "--bundle", filepath.Join(dir, "policy"), "--bundle", filepath.Join(dir, "more"))
	if err := validated(t, cfg); err != nil {
		t.Fatalf("%v\n%s\n%s", err, messages, text)
	}
}

// validated does what serve does between reading the configuration and listening. A policy that cannot be loaded is an error too.
func validated(t *testing.T, cfg *config.Config) error {
	t.Helper()
	doc := &config.Document{File: "gatehouse.yaml", Lines: map[string]int{}}
	found := &config.Problems{Doc: doc}
	found.Add("listen", server.ValidateListen(cfg.Listen))
	n, err := edge.NewStatic(t.Context(), edge.Config{Config: cfg, Found: found, Smoke: node.ReadSmoke})
	if err == nil {
		n.Close()
	}
	return err
}

func TestMigrateRefuses(t *testing.T) {
	for name, test := range map[string]struct{ opa, want string }{
		"broken YAML":     {"a: [", "opa.yaml:1: did not find expected node content: a [ or { that is not closed, or a comma too many?"},
		"a list":          {"- a", "opa.yaml:1: not an OPA configuration: must be a mapping"},
		"section is text": {"plugins: yes", "opa.yaml:1: plugins: must be a mapping"},
		"twice":           {"labels: {a: b}\nlabels: {a: b}", "opa.yaml:2: labels: is already on line 1"},
		"alias":           {"labels: &x {a: b}\nstatus: *x", "opa.yaml:2: status: aliases are not read: write the value out"},
		"merge key":       {"labels:\n  <<: {a: b}", "opa.yaml:2: labels.<<: merge keys are not read: write the values out"},
		"path and query":  {plugin("path: a\nquery: data.a"), "opa.yaml:4: plugins.envoy_ext_authz_grpc.query: path is there as well: only one of path and query may be"},
		"dry-run":         {plugin("dry-run: maybe"), `opa.yaml:3: plugins.envoy_ext_authz_grpc.dry-run: "maybe" is neither true nor false`},
		"size":            {plugin("grpc-max-recv-msg-size: 4MB"), `opa.yaml:3: plugins.envoy_ext_authz_grpc.grpc-max-recv-msg-size: "4MB" is not a number of bytes`},
		"addr":            {plugin("addr: nine"), `opa.yaml:3: plugins.envoy_ext_authz_grpc.addr: "nine" is not host:port`},
		"addr scheme":     {plugin("addr: http://:1"), `opa.yaml:3: plugins.envoy_ext_authz_grpc.addr: "http://:1": opa-envoy-plugin knows grpc:// and unix://`},
		"addr list":       {plugin("addr: [a]"), "opa.yaml:3: plugins.envoy_ext_authz_grpc.addr: must be a single value"},
		"nameless":        {"services:\n  - url: http://x", "opa.yaml:2: services: a service without a name"},
		"percentage":      {"distributed_tracing: {type: grpc, sample_percentage: 101}", `opa.yaml:1: distributed_tracing.sample_percentage: "101" is not a percentage`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "opa.yaml")
			write(t, file, test.opa)
			code, stdout, stderr := command(t, "migrate", file)
			if want := "gatehouse: " + test.want + "\n"; code != 2 || stdout != "" || strings.ReplaceAll(stderr, dir+"/", "") != want {
				t.Errorf("code %d\n got %s\nwant %s\n%s", code, stderr, want, stdout)
			}
		})
	}
}

func FuzzMigrate(f *testing.F) {
	full, err := os.ReadFile("testdata/migrate/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(full))
	f.Add(plugin("addr: :9191\npath: a/b"))
	f.Add("services: [{name: a, url: x}]\nbundle: {name: b}\nlabels: {\"a\\nb: c\": \"d\\ne\"}")
	f.Fuzz(func(t *testing.T, opa string) {
		if strings.Contains(opa, "$") || strings.Contains(opa, "file:") {
			return // what the environment and the disk hold is not the input
		}
		dir := t.TempDir()
		file, output := filepath.Join(dir, "opa.yaml"), filepath.Join(dir, "gatehouse.yaml")
		write(t, file, opa)
		if code, _, _ := command(t, "migrate", file, "--out", output); code != 0 {
			return
		}
		if _, doc, err := (config.Source{File: output}).Read(); err != nil || len(doc.Errs) > 0 {
			text, _ := os.ReadFile(output)
			t.Errorf("the result does not load: %v, %v\n%s", err, doc.Errs, text)
		}
	})
}
