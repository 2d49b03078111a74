// Package migrate reads the configuration of an OPA that runs opa-envoy-plugin and makes the gatehouse.yaml that does the same. It owns
// what it says of OPA's settings: which have a counterpart here, and what to do about those that have none. It imports bundles and policy,
// to compile the policy as serve would, and decisionlog, which knows headers that hold secrets. It prints nothing.
package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/bundles"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/yamltext"
)

// Config says what to migrate.
type Config struct {
	File    string   // name of the OPA configuration, for messages
	Text    []byte   // what it says
	Output  string   // file that the result is for, whose folder relative paths are relative to; Stdout is the current folder
	Bundles []string // policy: directories and tarballs
}

// Stdout is an Output that is no file.
const Stdout = "-"

// Result is a gatehouse.yaml.
type Result struct {
	Text     string
	Findings []Finding

	output string
	files  []beside
}

// Run makes a gatehouse.yaml of an OPA configuration, and compiles the policy where it is here. What no OPA would start with is an
// error, all of it at once. It writes nothing.
func Run(ctx context.Context, c Config) (*Result, error) {
	m, err := newMigration(c)
	if err != nil {
		return nil, err
	}
	m.checkPolicy(ctx)
	return &Result{Text: m.render(), Findings: m.findings, output: c.Output, files: m.files}, nil
}

// Write writes the result, and the public keys that go with it, to files that must not exist yet. A Result for Stdout has no files.
func (r *Result) Write() error {
	for _, f := range r.files {
		if err := writeNew(f.path, f.text); err != nil {
			return err
		}
	}
	if r.output == Stdout {
		return nil
	}
	return writeNew(r.output, r.Text)
}

// migration is one OPA configuration on its way to a gatehouse.yaml.
type migration struct {
	file     string // as given, for messages
	dir      string // what relative paths in the result will be relative to
	errs     []error
	findings []Finding

	grpc     string
	decision string
	// decisionFrom is the setting that decision is from, "" for the default.
	decisionFrom string
	dryRun       string // plain YAML, "" for no setting
	message      string // a size with its unit
	log          string // decision_log.file
	protos       string
	cache        string // a size with its unit, of http.send's answers
	traces       *traces
	labels       []labelled
	bundles      []localBundle
	remote       []remoteBundle
	fetched      []migratedBundle
	bundleNames  []string // of those
	services     map[string]*service
	serviceNames []string // in their order
	keys         map[string]*opaKey
	keyNames     []string
	logs, state  setting           // decision_logs and status
	local        []setting         // signing of bundles that are paths
	localNames   map[string]string // their names here, by OPA's
	signed       map[string]string // their signing here, by their names
	sink         []string          // of a server for decisions
	status       []string
	stateDir     string
	persist      bool     // something needs state_dir
	files        []beside // that are written with the result
	output       string
	variables    map[string]bool // environment variables already noted
}

// localBundle is a bundle that is a path.
type localBundle struct{ name, path string }

type labelled struct{ name, value string }

type traces struct {
	otlp     string
	insecure bool
	ratio    float64
}

type remoteBundle struct {
	setting  setting
	name     string
	service  string
	resource string
}

// Finding is one thing that the operator should know of.
type Finding struct {
	Lost bool // there is no counterpart

	line    int    // in the OPA configuration, 0 where it is not about that
	at      string // file:line
	what    string // the setting, or empty
	text    string
	section string // of gatehouse.yaml whose comments it belongs to; "" is the end of the file
	entry   string // YAML to be commented out below it
}

// String is it in one line, with its place. What stands in it is the configuration's: it may hold control characters.
func (f Finding) String() string {
	kind := "note: "
	if f.Lost {
		kind = "no counterpart: "
	}
	if f.what != "" {
		kind = f.what + ": " + kind
	}
	return f.at + ": " + kind + f.text
}

// setting is one key of the OPA configuration with its value.
type setting struct {
	path []string
	line int // of the key
	node *yaml.Node
}

func (s setting) key() string { return strings.Join(s.path, ".") }

// name is the last segment: what a * of a rule's key stood for.
func (s setting) name() string { return s.path[len(s.path)-1] }

// each walks the members of a mapping.
func (s setting) each(visit func(setting)) {
	if s.node.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(s.node.Content); i += 2 {
		key, value := s.node.Content[i], s.node.Content[i+1]
		visit(setting{path: append(slices.Clone(s.path), key.Value), line: key.Line, node: value})
	}
}

// below is a member, with its path; ok is false where there is none.
func (s setting) below(key string) (found setting, ok bool) {
	s.each(func(c setting) {
		if c.name() == key {
			found, ok = c, true
		}
	})
	return found, ok
}

// fileName makes a name that a file can have.
func fileName(name string) string {
	return cmp.Or(strings.Trim(notInName.ReplaceAllString(name, "-"), "-."), "service")
}

func newMigration(c Config) (*migration, error) {
	m := &migration{file: c.File, dir: ".", grpc: ":9191", decision: "envoy/authz/allow", message: "4MiB", output: c.Output, services: map[string]*service{},
		keys: map[string]*opaKey{}, localNames: map[string]string{}, signed: map[string]string{}, variables: map[string]bool{}}
	if c.Output != Stdout {
		m.dir = filepath.Dir(c.Output)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(c.Text, &root); err != nil {
		return nil, yamltext.Error(c.File, err)
	}
	if len(root.Content) > 0 {
		m.walk(setting{node: root.Content[0], line: root.Content[0].Line}, opaRules())
	}
	m.takeLogs()
	m.takeStatus()
	m.takeBundles()
	slices.SortStableFunc(m.findings, func(a, b Finding) int { return a.line - b.line })
	for _, dir := range c.Bundles {
		if info, err := os.Stat(dir); err != nil {
			m.errs = append(m.errs, fmt.Errorf("--bundle: %w", err))
		} else if !info.IsDir() && !isTarball(dir) {
			m.errs = append(m.errs, fmt.Errorf("--bundle: %s is not a directory: give the directory that holds it", dir))
		}
		abs, err := filepath.Abs(dir)
		m.errs = append(m.errs, err)
		m.addBundle(filepath.Base(abs), dir)
	}
	return m, errors.Join(m.errs...)
}

func (m *migration) at(line int) string { return fmt.Sprintf("%s:%d", m.file, line) }

func (m *migration) fail(s setting, format string, args ...any) {
	m.errs = append(m.errs, fmt.Errorf("%s: %s: %s", m.at(s.line), s.key(), fmt.Sprintf(format, args...)))
}

// lost files a setting that has no counterpart.
func (m *migration) lost(s setting, section, advice string) {
	m.findings = append(m.findings, Finding{line: s.line, at: m.at(s.line), what: s.key() + parts(s.node), text: advice, Lost: true, section: section})
}

func (m *migration) note(s setting, section, text string) {
	m.findings = append(m.findings, Finding{line: s.line, at: m.at(s.line), what: s.key(), text: text, section: section})
}

// parts names what is below a setting, as in " (polling.min_delay_seconds, persist)". Values stay out: they may be secrets.
func parts(n *yaml.Node) string {
	var names []string
	var collect func(n *yaml.Node, prefix string)
	collect = func(n *yaml.Node, prefix string) {
		if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
			if prefix != "" && prefix != "name" { // the name of a service in a list is in the key already
				names = append(names, prefix)
			}
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			collect(n.Content[i+1], strings.TrimPrefix(prefix+"."+n.Content[i].Value, "."))
		}
	}
	collect(n, "")
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// walk applies to each setting the rule for it. A key that no rule knows is reported, never dropped.
func (m *migration) walk(s setting, rules []rule) {
	if s.node.Kind == yaml.AliasNode {
		m.fail(s, "aliases are not read: write the value out")
		return
	}
	apply, below := match(rules, s.path)
	switch {
	case apply != nil:
		m.noteVariables(s, s.node)
		apply(m, s)
	case !below:
		m.lost(s, "", "not a setting that OPA or opa-envoy-plugin is known to have; Gatehouse has none of this name")
	case s.node.Kind == yaml.MappingNode:
		m.mapping(s, rules)
	case s.node.Kind == yaml.SequenceNode && s.key() == "services":
		m.serviceList(s, rules)
	case s.node.Kind == yaml.ScalarNode && s.node.Tag == "!!null":
		// a section without content
	case len(s.path) == 0:
		m.errs = append(m.errs, fmt.Errorf("%s: not an OPA configuration: must be a mapping", m.at(s.line)))
	default:
		m.fail(s, "must be a mapping")
	}
}

func (m *migration) mapping(s setting, rules []rule) {
	seen := map[string]int{}
	for i := 0; i+1 < len(s.node.Content); i += 2 {
		key, value := s.node.Content[i], s.node.Content[i+1]
		child := setting{path: append(slices.Clone(s.path), key.Value), line: key.Line, node: value}
		if line, twice := seen[key.Value]; twice {
			m.fail(child, "is already on line %d", line)
			continue
		}
		seen[key.Value] = key.Line
		if key.Tag == "!!merge" {
			m.fail(child, "merge keys are not read: write the values out")
			continue
		}
		m.walk(child, rules)
	}
}

// serviceList walks services in the form of a list, whose items carry their names.
func (m *migration) serviceList(s setting, rules []rule) {
	for _, item := range s.node.Content {
		name := child(item, "name")
		if name == nil {
			m.fail(setting{path: s.path, line: item.Line}, "a service without a name")
			continue
		}
		m.walk(setting{path: append(slices.Clone(s.path), name.Value), line: item.Line, node: item}, rules)
	}
}

// child returns the value of a key of a mapping, nil where there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// scalarBelow returns the value of a scalar below n, "" where there is none.
func scalarBelow(n *yaml.Node, key string) string {
	if v := child(n, key); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

var opaVariable = regexp.MustCompile(`\$\{([^}]*)\}`)

// noteVariables mentions each environment variable once: OPA reads an unset one as empty, Gatehouse does not start.
func (m *migration) noteVariables(s setting, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		for _, found := range opaVariable.FindAllStringSubmatch(n.Value, -1) {
			if name := found[1]; !m.variables[name] {
				m.variables[name] = true
				m.note(s, "", fmt.Sprintf("environment variable %q must be set wherever it is still used; OPA reads an unset one as empty", name))
			}
		}
		return
	}
	for _, item := range n.Content {
		m.noteVariables(s, item)
	}
}

// relative turns a path that is relative to the current directory into one that is relative to the result.
func (m *migration) relative(path string) string {
	if filepath.IsAbs(path) || strings.HasPrefix(path, "${") {
		return path
	}
	from, err := filepath.Abs(m.dir)
	to, err2 := filepath.Abs(path)
	if errors.Join(err, err2) == nil {
		if rel, err := filepath.Rel(from, to); err == nil {
			return rel
		}
	}
	return path
}

var notInName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// addBundle adds a policy directory under a name that Gatehouse accepts and that no other has.
func (m *migration) addBundle(name, path string) string {
	name = strings.Trim(notInName.ReplaceAllString(name, "-"), "-.")
	name = cmp.Or(name, "policy")
	name = name[:min(len(name), 60)]
	taken := func(name string) bool {
		return slices.ContainsFunc(m.bundles, func(b localBundle) bool { return b.name == name }) || slices.Contains(m.bundleNames, name)
	}
	unique := name
	for n := 2; taken(unique); n++ {
		unique = fmt.Sprintf("%s-%d", name, n)
	}
	m.bundles = append(m.bundles, localBundle{name: unique, path: path})
	return unique
}

// checkPolicy compiles the policy as serve would and reports what it refuses.
func (m *migration) checkPolicy(ctx context.Context) {
	cfg := bundles.Config{Policy: policy.Config{Decision: m.decision}, SkipTests: true} // whether it compiles is asked, not whether it is right
	dirs := map[string]string{}
	if len(m.fetched) > 0 {
		m.findings = append(m.findings, Finding{at: m.file, text: "bundles that are fetched were not looked at: gatehouse serve says what it refuses", section: "policy"})
		return
	}
	for _, b := range m.bundles {
		if _, err := os.Stat(b.path); err != nil {
			m.findings = append(m.findings, Finding{at: b.path, text: "not to be read here, so the policy was not looked at", section: "policy"})
			return
		}
		dirs[b.name] = b.path
		cfg.Sources = append(cfg.Sources, bundles.Source{Name: b.name, Path: b.path})
	}
	if len(cfg.Sources) == 0 {
		return
	}
	snapshot, err := func() (*policy.Snapshot, error) {
		manager, err := bundles.New(cfg)
		if err != nil {
			return nil, err
		}
		return manager.Load(ctx)
	}()
	var list bundle.Problems
	if errors.As(err, &list) {
		for _, p := range list {
			m.findings = append(m.findings, Finding{at: problemPlace(p, dirs), text: p.Text, Lost: true, section: "policy"})
		}
		return
	}
	if err != nil {
		m.findings = append(m.findings, Finding{at: "policy", text: err.Error(), Lost: true, section: "policy"})
		return
	}
	for _, notice := range snapshot.Notices() {
		m.findings = append(m.findings, Finding{at: "policy", text: notice, section: "policy"})
	}
}

// problemPlace is where a problem of the policy is, as a path that an editor opens.
func problemPlace(p bundle.Problem, dirs map[string]string) string {
	switch {
	case p.File == "" && p.Bundle == "":
		return "policy"
	case p.Line == 0:
		return filepath.Join(dirs[p.Bundle], p.File)
	default:
		return fmt.Sprintf("%s:%d", filepath.Join(dirs[p.Bundle], p.File), p.Line)
	}
}

// writeNew writes a file that does not exist yet.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already\nremove it, or give another name with --out", path)
	}
	if err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
