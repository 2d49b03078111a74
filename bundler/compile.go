package bundler

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"

	"gatehouse/bundles"
	"gatehouse/bundles/tarball"
	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

// SignatureFile is the path of a bundle's signature, as in OPA.
const (
	manifestFile  = ".manifest"
	SignatureFile = ".signatures.json"
)

// Compiler says what a bundle is compiled with: a configuration's capabilities, decision and other bundles, or a decision alone.
type Compiler struct {
	Config   string // configuration file; "" is the one in this folder where it names the bundle
	Decision string // path that must be defined
}

// withOthers reads the policy settings of the configuration and its other bundles that are on this machine. The bundle replaces, and takes
// the name of, the configured one with the same path.
func (f *Compiler) withOthers(ctx context.Context, o *Bundle) (policy.Config, []*Bundle, error) {
	file := f.Config
	if file == "" {
		file = configOf(o)
	}
	if file == "" {
		return policy.Config{Decision: f.Decision}, nil, nil
	}
	cfg, doc, err := config.Source{File: file}.Read()
	if err == nil {
		err = errors.Join(doc.Errs...)
	}
	if err != nil {
		return policy.Config{}, nil, err
	}
	if f.Decision != "" {
		cfg.Policy.Decision = f.Decision
	}
	settings := edge.BundlesConfig(cfg, nil, nil, nil)
	var others []*Bundle
	for _, s := range settings.Sources {
		if s.Path == "" {
			continue
		}
		if samePath(s.Path, o.Path) {
			o.Name = s.Name
			continue
		}
		files, err := bundles.ReadFiles(ctx, s, settings.Limits)
		if err != nil {
			return policy.Config{}, nil, err
		}
		others = append(others, &Bundle{Name: s.Name, Path: s.Path, Files: files})
	}
	return settings.Policy, others, nil
}

// configOf is the configuration in this folder, where the bundle is one of those that it names; "" otherwise.
func configOf(o *Bundle) string {
	src, err := config.Source{}.OrDefault()
	if err != nil || o.Path == "" {
		return ""
	}
	cfg, _, err := src.Read()
	if err != nil {
		return ""
	}
	for _, b := range cfg.Policy.Bundles {
		if b.Path != "" && samePath(b.Path, o.Path) {
			return src.File
		}
	}
	return ""
}

func samePath(a, b string) bool {
	x, err := os.Stat(a)
	y, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(x, y)
}

// Compiled is a bundle that passed every check that needs no requests.
type Compiled struct {
	Bundle   *bundle.Bundle
	Settings policy.Config
	All      []*bundle.Bundle
	Tests    []*bundle.Tests // of this bundle only
	Notices  []string
}

// Compile reads and compiles a bundle as an activation would, and parses its tests.
func (f *Compiler) Compile(ctx context.Context, o *Bundle) (*Compiled, error) {
	settings, others, err := f.withOthers(ctx, o)
	if err != nil {
		return nil, err
	}
	out := &Compiled{Settings: settings}
	if out.Bundle, err = bundle.Read(o.Name, tarball.Tree(o.Files), bundle.Limits{}); err != nil {
		return nil, err
	}
	out.All = []*bundle.Bundle{out.Bundle}
	for _, other := range others {
		b, err := bundle.Read(other.Name, tarball.Tree(other.Files), bundle.Limits{})
		if err != nil {
			return nil, err
		}
		out.All = append(out.All, b)
	}
	snapshot, err := policy.Compile(ctx, settings, out.All)
	if err != nil {
		return nil, err
	}
	out.Notices = snapshot.Notices()
	tests, err := bundle.ReadTests(o.Name, tarball.Tree(o.Files), bundle.Limits{})
	out.Tests = []*bundle.Tests{tests}
	return out, err
}

// Adjust removes what does not belong in the tarball, and writes the revision.
func (o *Bundle) Adjust(revision string, withoutTests bool) error {
	delete(o.Files, SignatureFile) // it covers the unadjusted contents
	for name := range o.Files {
		if withoutTests && strings.HasSuffix(name, "_test.rego") {
			delete(o.Files, name)
		}
	}
	if revision == "" {
		return nil
	}
	manifest := map[string]json.RawMessage{}
	if text, ok := o.Files[manifestFile]; ok {
		if err := json.Unmarshal(text, &manifest); err != nil {
			return nil // bundle.Read reports what is wrong with it, and where
		}
	}
	encoded, err := json.Marshal(revision)
	if err != nil {
		return err
	}
	manifest["revision"] = encoded
	o.Files[manifestFile], err = json.Marshal(manifest)
	return err
}
