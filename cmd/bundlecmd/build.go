package bundlecmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/bundler"
	"gatehouse/bundles/signature"
	"gatehouse/bundles/tarball"
	"gatehouse/cmd/grammar"
	"gatehouse/images"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/report"
	"gatehouse/terminal"
	"gatehouse/trial"
)

// CompileFlags say what a bundle is compiled with.
type CompileFlags struct{ bundler.Compiler }

// Add adds --config and --decision.
func (f *CompileFlags) Add(c *cobra.Command) {
	c.Flags().StringVarP(&f.Config, "config", "c", "", "configuration file: use its capabilities, decision and other bundles (default: gatehouse.yaml, where it names the bundle)")
	c.Flags().StringVar(&f.Decision, "decision", "", "path of a decision that must be defined, such as envoy/authz/allow (default: that of --config)")
}

// buildFlags are those of gatehouse bundle build.
type buildFlags struct {
	CompileFlags
	ImageFlags
	tags        []string
	revision    string
	withoutTest bool
	annotations map[string]string
	output      grammar.Output
}

func bundleBuildCommand() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use:   "build [DIR]",
		Short: "Build a tarball or image from a directory",
		Long: `Compiles a directory like an activation, and builds a tarball (--out) or an image in the local store (-t). Builds are
reproducible: the same files give the same digest. The bundle contains the files that Gatehouse reads: .manifest, *.rego with the
tests, data.json and data.yaml. A bundle that does not compile is not built. Without DIR it is the only bundle of the configuration that is on
this machine.`,
		Example: `  gatehouse bundle build ./policy --out bundle.tar.gz
  gatehouse bundle build ./policy -t registry.example.com/policies/app:1.4 --revision "$(git rev-parse HEAD)"`,
		Args: grammar.Arguments("gatehouse bundle build ./policy --out bundle.tar.gz", 0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			args, err := f.Local(args)
			if err != nil {
				return err
			}
			if len(args) > 1 {
				return fmt.Errorf("%s has several bundles: name the folder of one, such as %s", f.Config, args[0])
			}
			return f.run(c, args[0])
		},
	}
	f.CompileFlags.Add(c)
	f.AddStore(c)
	flags := c.Flags()
	flags.StringArrayVarP(&f.tags, "tag", "t", nil, "name of the image in the local store; may be repeated")
	f.output.AddFile(c, "one object for each name, and for the file", "", "file for the tarball; - is standard output")
	flags.StringVar(&f.revision, "revision", "", "revision to write into the manifest")
	flags.BoolVar(&f.withoutTest, "no-tests", false, "leave the *_test.rego out")
	flags.StringToStringVar(&f.annotations, "annotation", nil, "key=value to add to the image's manifest; may be repeated")
	return c
}

func (f *buildFlags) run(c *cobra.Command, dir string) error {
	if f.output.File == "" && len(f.tags) == 0 {
		return errors.New("where to? give --out FILE for a tarball, or -t NAME for an image")
	}
	if f.output.File == "-" && len(f.tags) > 0 {
		return errors.New("--out - writes the tarball to standard output: give no -t besides")
	}
	o, err := bundler.OpenPath(c.Context(), dir)
	if err != nil {
		return err
	}
	if err := o.Adjust(f.revision, f.withoutTest); err != nil {
		return err
	}
	made, err := f.Compile(c.Context(), o)
	if err != nil {
		return err
	}
	for _, notice := range made.Notices {
		fmt.Fprintln(c.ErrOrStderr(), "notice: "+notice)
	}
	tarball, err := images.Pack(o.Files)
	if err != nil {
		return err
	}
	i, err := images.New(tarball, f.annotations)
	if err != nil {
		return err
	}
	return f.write(c, i, made.Bundle.Revision())
}

func (f *buildFlags) write(c *cobra.Command, i *images.Image, revision string) error {
	out := describe(i)
	out.Revision = revision
	if f.output.File != "" {
		if err := grammar.WriteFile(c, f.output.File, i.Tarball()); err != nil || f.output.File == "-" {
			return err
		}
		file := out
		file.File = f.output.File
		if err := file.print(c.OutOrStdout(), f.output.JSON()); err != nil {
			return err
		}
	}
	for _, tag := range f.tags {
		var err error
		if out.Reference, err = f.Put(i, tag); err != nil {
			return err
		}
		if err := out.print(c.OutOrStdout(), f.output.JSON()); err != nil {
			return err
		}
	}
	return nil
}

// bundleTestFlags are those of gatehouse bundle test.
type bundleTestFlags struct {
	CompileFlags
	ImageFlags
	run     string
	junit   string
	verbose bool
	output  grammar.Output
}

func bundleTestCommand() *cobra.Command {
	var f bundleTestFlags
	c := &cobra.Command{
		Use:   "test [BUNDLE]...",
		Short: "Run a bundle's Rego tests",
		Long: `Compiles a bundle like an activation and runs every test in its *_test.rego files, without network access.
Without BUNDLE they are those of the configuration that are on this machine. gatehouse test runs these and also tables of requests.

Exit code: 0 all passed, 1 a test failed, 2 the tests could not run.`,
		Example: `  gatehouse bundle test
  gatehouse bundle test ./policy
  gatehouse bundle test registry.example.com/policies/app:1.4 --config gatehouse.yaml`,
		RunE: func(c *cobra.Command, args []string) error {
			failed, err := f.tests(c, args)
			if err != nil {
				return err // exit code 1 is a failed test
			}
			if failed > 0 {
				return grammar.Negative(errors.New("the tests did not pass"))
			}
			return nil
		},
	}
	f.CompileFlags.Add(c)
	f.AddStore(c)
	f.AddRegistry(c)
	flags := c.Flags()
	flags.StringVar(&f.run, "run", "", "regular expression: only tests whose name it matches")
	flags.StringVar(&f.junit, "junit", "", "file to write a JUnit report to")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "show passed tests too")
	f.output.Add(c, "one object")
	return c
}

// tests runs the tests of each bundle, and prints what came of all.
func (f *bundleTestFlags) tests(c *cobra.Command, args []string) (failed int, err error) {
	match, err := regexp.Compile(f.run)
	if err != nil {
		return 0, fmt.Errorf("--run: %w", err)
	}
	if args, err = f.Local(args); err != nil {
		return 0, err
	}
	var outcomes []trial.Outcome
	for _, arg := range args {
		of, err := f.test(c, arg, match)
		if err != nil {
			return 0, err
		}
		outcomes = append(outcomes, of...)
	}
	if len(outcomes) == 0 && f.run != "" {
		return 0, fmt.Errorf("there are no tests in %s that --run %q matches", strings.Join(args, ", "), f.run)
	}
	if f.junit != "" {
		if err := trial.WriteJUnit(f.junit, outcomes); err != nil {
			return 0, err
		}
	}
	out := report.Tests{Outcomes: outcomes, Verbose: f.verbose}
	if f.output.JSON() {
		return out.Failed(), out.WriteJSON(c.OutOrStdout())
	}
	return out.Failed(), out.Write(c.OutOrStdout())
}

func (f *bundleTestFlags) test(c *cobra.Command, arg string, match *regexp.Regexp) ([]trial.Outcome, error) {
	o, err := f.OpenBundle(c.Context(), arg, bundler.Pulled)
	if err != nil {
		return nil, err
	}
	made, err := f.Compile(c.Context(), o)
	if err != nil {
		return nil, err
	}
	results, err := policy.RunTests(c.Context(), made.Settings, made.All, made.Tests, match)
	if err != nil {
		return nil, err
	}
	outcomes := trial.RegoOutcomes(results, func(file string) string {
		_, file, _ = strings.Cut(file, "/") // the bundle's name is in front
		if info, err := os.Stat(o.Path); err == nil && info.IsDir() {
			file = filepath.Join(o.Path, filepath.FromSlash(file))
		}
		return file
	})
	for _, notice := range made.Notices {
		fmt.Fprintln(c.ErrOrStderr(), "notice: "+notice)
	}
	if len(outcomes) == 0 && f.run == "" {
		fmt.Fprintf(c.ErrOrStderr(), "notice: %s compiles; it has no tests, which would be in files named *_test.rego\n", arg)
	}
	return outcomes, nil
}

// keyFlags name a key.
type keyFlags struct {
	key        signature.Key
	allowHS256 bool
}

func (f *keyFlags) add(c *cobra.Command, what string) {
	flags := c.Flags()
	flags.StringVar(&f.key.File, "key", "", "file with the "+what)
	flags.StringVar(&f.key.ID, "key-id", "default", "id of the key, by which the verifier finds it")
	flags.StringVar(&f.key.Algorithm, "algorithm", "ES256", "RS256, PS256, ES256, EdDSA, their 384 and 512 bit variants, or HS256 if allowed")
	flags.StringVar(&f.key.Scope, "scope", "", "scope of the signature, which the verifier must expect")
	flags.BoolVar(&f.allowHS256, "allow-hs256", false, "accept HS256, although a key that verifies can also sign")
}

// verification is what the flags ask of a signature.
func (f *keyFlags) verification() (*signature.Verification, error) {
	if f.key.File == "" {
		return nil, errors.New("give the key's file with --key")
	}
	if f.key.Algorithm == "HS256" && !f.allowHS256 {
		return nil, errors.New("HS256 is refused, because a key that verifies can also sign: --allow-hs256 accepts that")
	}
	return &signature.Verification{Keys: []signature.Key{f.key}, AllowHS256: f.allowHS256}, nil
}

func bundleSignCommand() *cobra.Command {
	var k keyFlags
	var f ImageFlags
	var tag string
	var output grammar.Output
	c := &cobra.Command{
		Use:   "sign BUNDLE",
		Short: "Sign a tarball or an image of the local store",
		Long: `Adds .signatures.json, in OPA's format, to a tarball or an image, and replaces an older signature. The signed bundle replaces
the unsigned one, unless --out or -t is given. With the PS and ES algorithms, signature and digest differ each time.`,
		Example: `  gatehouse bundle sign bundle.tar.gz --key private.pem --key-id ci
  gatehouse bundle sign registry.example.com/policies/app:1.4 --key private.pem --key-id ci --algorithm EdDSA`,
		Args: grammar.Arguments("gatehouse bundle sign bundle.tar.gz --key private.pem --key-id ci", 1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := k.verification(); err != nil {
				return err
			}
			o, err := f.OpenBundle(c.Context(), args[0], bundler.Local)
			if err != nil {
				return err
			}
			signed, err := o.Sign(k.key)
			if err != nil {
				return err
			}
			if output.File == "" && tag == "" {
				output.File, tag = o.Path, o.Ref
			}
			if output.File != "" {
				if err := saveTarball(c, signed, output.File, output.JSON()); err != nil || tag == "" {
					return err
				}
			}
			return f.keep(c, &bundler.Bundle{Image: signed}, tag, output.JSON())
		},
	}
	k.add(c, "private key, PEM")
	f.AddStore(c)
	output.AddFile(c, "one object", "", "file for the signed tarball; - is standard output")
	c.Flags().StringVarP(&tag, "tag", "t", "", "name for the signed image in the local store")
	return c
}

func bundleVerifyCommand() *cobra.Command {
	var k keyFlags
	var f ImageFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:   "verify BUNDLE",
		Short: "Verify a bundle's signature",
		Long: `Checks the signature like an activation: it was made with the key, names exactly the files of the bundle, and each
file has the signed content.`,
		Example: `  gatehouse bundle verify bundle.tar.gz --key public.pem --key-id ci`,
		Args:    grammar.Arguments("gatehouse bundle verify bundle.tar.gz --key public.pem --key-id ci", 1),
		RunE: func(c *cobra.Command, args []string) error {
			v, err := k.verification()
			if err != nil {
				return err
			}
			o, err := f.OpenBundle(c.Context(), args[0], bundler.Pulled)
			if err != nil {
				return err
			}
			if o.Image == nil {
				return errors.New("a signature is in a tarball or an image: a directory has none")
			}
			if err := v.Verify(o.Name, o.Files, time.Now()); errors.As(err, new(*fs.PathError)) {
				return err
			} else if err != nil {
				return grammar.Negative(err)
			}
			b, err := bundle.Read(o.Name, tarball.Tree(o.Files), bundle.Limits{})
			if err != nil {
				return err
			}
			if output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(map[string]string{"bundle": args[0], "key_id": k.key.ID, "revision": b.Revision(), "layer": o.Image.Layer()})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is signed with key %s, revision %s, tarball %s\n", args[0], k.key.ID, b.Revision(), o.Image.Layer())
			return err
		},
	}
	k.add(c, "public key or certificate, PEM")
	f.AddStore(c)
	f.AddRegistry(c)
	output.Add(c, "one object")
	return c
}
