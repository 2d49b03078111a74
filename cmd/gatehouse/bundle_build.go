package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/bundles"
	"gatehouse/bundles/tarball"
	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/images"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/trial"
)

const (
	manifestFile  = ".manifest"
	signatureFile = ".signatures.json"
)

// compileFlags say what a bundle is compiled with.
type compileFlags struct {
	config   string
	decision string
}

func (f *compileFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&f.config, "config", "c", "", "configuration file: use its capabilities, decision and other bundles")
	c.Flags().StringVar(&f.decision, "decision", "", "path of a decision that must be defined, such as envoy/authz/allow (default: that of --config)")
}

// withOthers reads what a bundle is compiled with: the policy's settings, and the other bundles of the configuration that
// are on this machine. The bundle takes the place, and the name, of the one whose path is its own.
func (f *compileFlags) withOthers(ctx context.Context, o *opened) (policy.Config, []*opened, error) {
	if f.config == "" {
		return policy.Config{Decision: f.decision}, nil, nil
	}
	cfg, doc, err := config.Source{File: f.config}.Read()
	if err == nil {
		err = errors.Join(doc.Errs...)
	}
	if err != nil {
		return policy.Config{}, nil, err
	}
	if f.decision != "" {
		cfg.Policy.Decision = f.decision
	}
	settings := edge.BundlesConfig(cfg, nil, nil, nil)
	var others []*opened
	for _, s := range settings.Sources {
		if s.Path == "" {
			continue
		}
		if samePath(s.Path, o.path) {
			o.name = s.Name
			continue
		}
		files, err := bundles.ReadFiles(ctx, s, settings.Limits)
		if err != nil {
			return policy.Config{}, nil, err
		}
		others = append(others, &opened{name: s.Name, path: s.Path, files: files})
	}
	return settings.Policy, others, nil
}

func samePath(a, b string) bool {
	x, err := os.Stat(a)
	y, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(x, y)
}

// compiled is a bundle that everything but requests has been tried on.
type compiled struct {
	bundle   *bundle.Bundle
	settings policy.Config
	all      []*bundle.Bundle
	tests    []*bundle.Tests // of the bundle alone
	notices  []string
}

// compile reads and compiles a bundle as an activation would, and parses its tests.
func (f *compileFlags) compile(ctx context.Context, o *opened) (*compiled, error) {
	settings, others, err := f.withOthers(ctx, o)
	if err != nil {
		return nil, err
	}
	out := &compiled{settings: settings}
	if out.bundle, err = bundle.Read(o.name, tarball.Tree(o.files), bundle.Limits{}); err != nil {
		return nil, err
	}
	out.all = []*bundle.Bundle{out.bundle}
	for _, other := range others {
		b, err := bundle.Read(other.name, tarball.Tree(other.files), bundle.Limits{})
		if err != nil {
			return nil, err
		}
		out.all = append(out.all, b)
	}
	snapshot, err := policy.Compile(ctx, settings, out.all)
	if err != nil {
		return nil, err
	}
	out.notices = snapshot.Notices()
	tests, err := bundle.ReadTests(o.name, tarball.Tree(o.files), bundle.Limits{})
	out.tests = []*bundle.Tests{tests}
	return out, err
}

// buildFlags are those of gatehouse bundle build.
type buildFlags struct {
	compileFlags
	imageFlags
	tags        []string
	output      string
	revision    string
	withoutTest bool
	annotations map[string]string
	json        bool
}

func bundleBuildCommand() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use:   "build DIR",
		Short: "Build a tarball or image from a directory",
		Long: `Compiles a directory like an activation, and builds a tarball (-o) or an image in the local store (-t). Builds are
reproducible: the same files give the same digest. The bundle contains the files that Gatehouse reads: .manifest, *.rego with the
tests, data.json and data.yaml. A bundle that does not compile is not built.`,
		Example: `  gatehouse bundle build ./policy -o bundle.tar.gz
  gatehouse bundle build ./policy -t registry.example.com/policies/app:1.4 --revision "$(git rev-parse HEAD)"`,
		Args: arguments("gatehouse bundle build ./policy -o bundle.tar.gz", 1),
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args[0]) },
	}
	f.compileFlags.add(c)
	f.addStore(c)
	flags := c.Flags()
	flags.StringArrayVarP(&f.tags, "tag", "t", nil, "name of the image in the local store; may be repeated")
	flags.StringVarP(&f.output, "output", "o", "", "file for the tarball; - is standard output")
	flags.StringVar(&f.revision, "revision", "", "revision to write into the manifest")
	flags.BoolVar(&f.withoutTest, "no-tests", false, "leave the *_test.rego out")
	flags.StringToStringVar(&f.annotations, "annotation", nil, "key=value to add to the image's manifest; may be repeated")
	flags.BoolVar(&f.json, "json", false, "print JSON: one object for each name, and for the file")
	return c
}

func (f *buildFlags) run(c *cobra.Command, dir string) error {
	if f.output == "" && len(f.tags) == 0 {
		return usageError{errors.New("where to? give -o FILE for a tarball, or -t NAME for an image")}
	}
	if f.output == "-" && len(f.tags) > 0 {
		return usageError{errors.New("-o - writes the tarball to standard output: give no -t besides")}
	}
	o, err := openPath(c.Context(), dir)
	if err != nil {
		return err
	}
	if err := f.adjust(o.files); err != nil {
		return err
	}
	made, err := f.compileFlags.compile(c.Context(), o)
	if err != nil {
		return err
	}
	for _, notice := range made.notices {
		fmt.Fprintln(c.ErrOrStderr(), "notice: "+notice)
	}
	tarball, err := images.Pack(o.files)
	if err != nil {
		return err
	}
	i, err := images.New(tarball, f.annotations)
	if err != nil {
		return err
	}
	return f.write(c, i, made.bundle.Revision())
}

// adjust leaves out what does not belong into the tarball, and writes the revision.
func (f *buildFlags) adjust(files map[string][]byte) error {
	delete(files, signatureFile) // of other contents
	for name := range files {
		if f.withoutTest && strings.HasSuffix(name, "_test.rego") {
			delete(files, name)
		}
	}
	if f.revision == "" {
		return nil
	}
	manifest := map[string]json.RawMessage{}
	if text, ok := files[manifestFile]; ok {
		if err := json.Unmarshal(text, &manifest); err != nil {
			return nil // bundle.Read says what is wrong with it, and where
		}
	}
	revision, err := json.Marshal(f.revision)
	if err != nil {
		return err
	}
	manifest["revision"] = revision
	files[manifestFile], err = json.Marshal(manifest)
	return err
}

func (f *buildFlags) write(c *cobra.Command, i *images.Image, revision string) error {
	out := describe(i)
	out.Revision = revision
	if f.output != "" {
		if err := writeWhole(c, f.output, i.Tarball()); err != nil || f.output == "-" {
			return err
		}
		file := out
		file.File = f.output
		if err := file.print(c.OutOrStdout(), f.json); err != nil {
			return err
		}
	}
	if len(f.tags) == 0 {
		return nil
	}
	store, err := f.open()
	if err != nil {
		return err
	}
	for _, tag := range f.tags {
		if err := store.Put(i, tag); err != nil {
			return err
		}
		r, err := images.ParseReference(tag)
		if err != nil {
			return err
		}
		out.Reference = r.String()
		if err := out.print(c.OutOrStdout(), f.json); err != nil {
			return err
		}
	}
	return nil
}

// bundleTestFlags are those of gatehouse bundle test.
type bundleTestFlags struct {
	compileFlags
	imageFlags
	run     string
	junit   string
	verbose bool
}

func bundleTestCommand() *cobra.Command {
	var f bundleTestFlags
	c := &cobra.Command{
		Use:   "test BUNDLE",
		Short: "Run a bundle's Rego tests",
		Long: `Compiles a bundle like an activation and runs every test in its *_test.rego files, without network access.
gatehouse test runs these and also tables of requests.

Exit code: 0 all passed, 1 a test failed, 2 the tests could not run.`,
		Example: `  gatehouse bundle test ./policy
  gatehouse bundle test registry.example.com/policies/app:1.4 --config gatehouse.yaml`,
		Args: arguments("gatehouse bundle test ./policy", 1),
		RunE: func(c *cobra.Command, args []string) error {
			failed, err := f.test(c, args[0])
			if err != nil {
				return usageError{err} // exit code 1 is a failed test
			}
			if failed > 0 {
				return errors.New("the tests did not pass")
			}
			return nil
		},
	}
	f.compileFlags.add(c)
	f.addStore(c)
	f.addRegistry(c)
	flags := c.Flags()
	flags.StringVar(&f.run, "run", "", "regular expression: only tests whose name it matches")
	flags.StringVar(&f.junit, "junit", "", "file to write a JUnit report to")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "show passed tests too")
	return c
}

func (f *bundleTestFlags) test(c *cobra.Command, arg string) (failed int, err error) {
	match, err := regexp.Compile(f.run)
	if err != nil {
		return 0, fmt.Errorf("--run: %w", err)
	}
	o, err := f.openBundle(c.Context(), arg, pulled)
	if err != nil {
		return 0, err
	}
	made, err := f.compileFlags.compile(c.Context(), o)
	if err != nil {
		return 0, err
	}
	results, err := policy.RunTests(c.Context(), made.settings, made.all, made.tests, match)
	if err != nil {
		return 0, err
	}
	outcomes := trial.RegoOutcomes(results, func(file string) string {
		_, file, _ = strings.Cut(file, "/") // the bundle's name is in front
		if info, err := os.Stat(o.path); err == nil && info.IsDir() {
			file = filepath.Join(o.path, filepath.FromSlash(file))
		}
		return file
	})
	if len(outcomes) == 0 {
		return 0, fmt.Errorf("there are no tests in %s%s", arg, matching(f.run))
	}
	report := testFlags{junit: f.junit, verbose: f.verbose}
	return report.report(c.OutOrStdout(), nil, outcomes, nil)
}

func matching(expression string) string {
	if expression == "" {
		return ": they are in files named *_test.rego"
	}
	return fmt.Sprintf(" that --run %q matches", expression)
}

// sortedNames are a bundle's files in lexical order.
func (o *opened) sortedNames() []string {
	names := make([]string, 0, len(o.files))
	for name := range o.files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
