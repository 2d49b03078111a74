package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/bundles"
	"gatehouse/config"
	"gatehouse/images"
	"gatehouse/policy/bundle"
	"gatehouse/scaffold"
	"gatehouse/terminal"
)

func bundleCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Build, test, sign and compare policy bundles, and exchange them as images",
		Long: `A bundle is a directory of Rego and data, or a tarball of one. An image is a bundle in a registry, or in the local store.
A BUNDLE argument is any of:

  ./policy                                a directory
  bundle.tar.gz                           a tarball
  registry.example.com/policies/app:1.4   an image, by tag or by @sha256:...

An argument that exists as a file is a file; a leading ./ always means a file.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q for gatehouse bundle\ngatehouse bundle --help lists them", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(bundleBuildCommand(), bundleTestCommand(), bundleSignCommand(), bundleVerifyCommand(), bundleDiffCommand(), bundleInspectCommand(),
		bundleTagCommand(), bundlePushCommand(), bundlePullCommand(), bundleSaveCommand(), bundleImagesCommand(), bundleRemoveCommand(),
		bundleLoginCommand(), bundleLogoutCommand())
	c.AddCommand(bundleControlCommands()...)
	return c
}

// imageFlags say where images are: the local store and how registries are reached.
type imageFlags struct {
	store     string
	ca        string
	plainHTTP bool
}

func (f *imageFlags) addStore(c *cobra.Command) {
	c.Flags().StringVar(&f.store, "store", "", "directory of the local images (default $GATEHOUSE_IMAGES, else $XDG_DATA_HOME/gatehouse/images)")
}

func (f *imageFlags) addRegistry(c *cobra.Command) {
	c.Flags().StringVar(&f.ca, "ca", "", "PEM file with the registry's certificate authorities, instead of the system's")
	c.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "connect to the registry without TLS; credentials are sent unencrypted")
}

// open returns the local store.
func (f *imageFlags) open() (*images.Store, error) {
	dir := f.store
	if dir == "" {
		dir = os.Getenv("GATEHOUSE_IMAGES")
	}
	if data := os.Getenv("XDG_DATA_HOME"); dir == "" && filepath.IsAbs(data) { // the specification has relative ones ignored
		dir = filepath.Join(data, "gatehouse", "images")
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("%w: give --store DIR", err)
		}
		dir = filepath.Join(home, ".local", "share", "gatehouse", "images")
	}
	return images.NewStore(dir)
}

// client speaks to registries with the credentials that docker login, or ours, left.
func (f *imageFlags) client() (*images.Client, error) {
	cfg := images.Config{PlainHTTP: f.plainHTTP}
	if f.ca != "" {
		pem, err := config.ReadBounded(f.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no certificate in PEM", f.ca)
		}
	}
	return images.NewClient(cfg)
}

// opened is a BUNDLE of the command line.
type opened struct {
	name  string            // for messages
	files map[string][]byte // by path below its top
	path  string            // of a directory or a tarball
	image *images.Image     // nil where it is neither an image nor a tarball
	ref   string            // of an image
}

// Remote says what becomes of an image that is not in the local store.
type remote bool

const (
	local  remote = false
	pulled remote = true
)

// openBundle reads a BUNDLE of any kind.
func (f *imageFlags) openBundle(ctx context.Context, arg string, elsewhere remote) (*opened, error) {
	if isPath(arg) {
		return openPath(ctx, arg)
	}
	i, err := f.find(ctx, arg, elsewhere)
	if err != nil {
		return nil, err
	}
	r, err := images.ParseReference(arg)
	o := &opened{name: path.Base(r.Repository), image: i, ref: arg}
	if err != nil {
		o.name = "image" // by its digest alone
	}
	o.files, err = bundles.ReadTarball(o.name, i.Tarball(), bundle.Limits{})
	return o, err
}

// find returns an image of the local store, or else of its registry.
func (f *imageFlags) find(ctx context.Context, ref string, elsewhere remote) (*images.Image, error) {
	store, err := f.open()
	if err != nil {
		return nil, err
	}
	i, err := store.Get(ref)
	r, refErr := images.ParseReference(ref)
	if !errors.Is(err, images.ErrNotFound) || elsewhere == local || refErr != nil || r.Registry == "" {
		return i, err
	}
	client, err := f.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return client.Pull(ctx, ref)
}

// isPath reports whether an argument is a file or directory rather than an image.
func isPath(arg string) bool {
	for _, prefix := range []string{"/", "./", "../"} {
		if strings.HasPrefix(arg, prefix) {
			return true
		}
	}
	for _, suffix := range []string{".tar.gz", ".tgz", ".tar"} {
		if strings.HasSuffix(arg, suffix) {
			return true
		}
	}
	_, err := os.Stat(arg)
	return err == nil
}

var unfitForName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// openPath reads a directory or tarball. A tarball that was not compressed becomes one that is.
func openPath(ctx context.Context, file string) (*opened, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	name := unfitForName.ReplaceAllString(config.BundleName(abs), "_")
	o := &opened{name: name[:min(len(name), 64)], path: file}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if o.files, err = bundles.ReadFiles(ctx, bundles.Source{Name: o.name, Path: file}, bundle.Limits{}); err != nil || info.IsDir() {
		return o, err
	}
	tarball, err := config.ReadUpTo(file, maxTarball)
	if err != nil {
		return nil, err
	}
	if o.image, err = images.New(tarball, nil); err != nil {
		if tarball, err = images.Pack(o.files); err == nil {
			o.image, err = images.New(tarball, nil)
		}
	}
	return o, err
}

// maxTarball bounds a tarball that is made an image, in bytes, as a registry's is bounded.
const maxTarball = 100 << 20

// imageOf is the image that a BUNDLE is or makes.
func (o *opened) imageOf() (*images.Image, error) {
	if o.image == nil {
		return nil, fmt.Errorf("%s is a directory\nbuild it first: gatehouse bundle build %s -t NAME", o.path, o.path)
	}
	return o.image, nil
}

// built is what the commands that make or move an image print.
type built struct {
	Reference string `json:"reference,omitempty"`
	File      string `json:"file,omitempty"`
	Digest    string `json:"digest"`
	Layer     string `json:"layer"`
	Size      int    `json:"size"` // bytes of the tarball
	Revision  string `json:"revision,omitempty"`
}

func describe(i *images.Image) built {
	return built{Digest: i.Digest(), Layer: i.Layer(), Size: len(i.Tarball())}
}

// print writes one line: what it is called, and the digest. That of a file is the file's own.
func (b built) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return terminal.JSON(w).Encode(b)
	}
	line := b.Reference + " " + b.Digest
	if b.File != "" {
		line = b.File + " " + b.Layer
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// writeWhole writes a file that is there as a whole or not at all; - is standard output. A link stays, and so does a device
// or a pipe.
func writeWhole(c *cobra.Command, file string, content []byte) error {
	if file == "-" {
		_, err := c.OutOrStdout().Write(content)
		return err
	}
	if info, err := os.Stat(file); err == nil {
		if !info.Mode().IsRegular() {
			return os.WriteFile(file, content, 0o644) // it exists, so this creates nothing
		}
		if file, err = filepath.EvalSymlinks(file); err != nil {
			return err
		}
	}
	return scaffold.PlaceFile(file, content, 0o644)
}
