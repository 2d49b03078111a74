// Package bundler opens, compiles, builds, signs and compares bundles for policy authors: directories, tarballs, and images of the local
// store or a registry. It prints nothing and deploys nothing; `gatehouse bundle`, `replay` and `log coverage` use it. It may import bundles,
// images, policy, and edge for the configuration.
package bundler

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gatehouse/bundles"
	"gatehouse/bundles/signature"
	"gatehouse/bundles/tarball"
	"gatehouse/config"
	"gatehouse/images"
	"gatehouse/policy/bundle"
)

// Images locates images: the local store, and how to reach registries.
type Images struct {
	Store     string // directory; "" is $GATEHOUSE_IMAGES, or else the user's data directory
	CA        string // file of CA certificates to use instead of the system's
	PlainHTTP bool
}

// Open returns the local store.
func (f *Images) Open() (*images.Store, error) {
	dir := f.Store
	if dir == "" {
		dir = os.Getenv("GATEHOUSE_IMAGES")
	}
	if data := os.Getenv("XDG_DATA_HOME"); dir == "" && filepath.IsAbs(data) { // the XDG specification says to ignore relative paths
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

// Put stores an image in the local store under a name, and returns the full name.
func (f *Images) Put(i *images.Image, name string) (string, error) {
	store, err := f.Open()
	if err != nil {
		return "", err
	}
	if err := store.Put(i, name); err != nil {
		return "", err
	}
	r, err := images.ParseReference(name)
	return r.String(), err
}

// Client returns a registry client with the credentials of docker login, or of our own login.
func (f *Images) Client() (*images.Client, error) {
	cfg := images.Config{PlainHTTP: f.PlainHTTP}
	if f.CA != "" {
		pem, err := config.ReadBounded(f.CA)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no certificate in PEM", f.CA)
		}
	}
	return images.NewClient(cfg)
}

// Bundle is the BUNDLE argument of a command.
type Bundle struct {
	Name  string            // for messages
	Files map[string][]byte // by path below its top
	Path  string            // of a directory or a tarball
	Image *images.Image     // nil if it is neither an image nor a tarball
	Ref   string            // of an image
}

// Remote says whether an image that is not in the local store is pulled.
type Remote bool

// Local does not ask the registry, Pulled does.
const (
	Local  Remote = false
	Pulled Remote = true
)

// OpenBundle reads a BUNDLE argument of any kind.
func (f *Images) OpenBundle(ctx context.Context, arg string, elsewhere Remote) (*Bundle, error) {
	if isPath(arg) {
		return OpenPath(ctx, arg)
	}
	i, err := f.Find(ctx, arg, elsewhere)
	r, refErr := images.ParseReference(arg)
	if err != nil && !strings.ContainsAny(arg, ":@") && r.Registry == "" {
		if refErr != nil {
			return nil, fmt.Errorf("there is no file or folder %s", arg)
		}
		return nil, fmt.Errorf("there is no file or folder %s, and no image of that name in the local store: gatehouse bundle images lists them", arg)
	} else if err != nil {
		return nil, err
	}
	o := &Bundle{Name: path.Base(r.Repository), Image: i, Ref: arg}
	if refErr != nil {
		o.Name = "image" // named by digest only
	}
	o.Files, err = bundles.ReadTarball(o.Name, i.Tarball(), bundle.Limits{})
	return o, err
}

// Find returns an image from the local store, or else from its registry.
func (f *Images) Find(ctx context.Context, ref string, elsewhere Remote) (*images.Image, error) {
	store, err := f.Open()
	if err != nil {
		return nil, err
	}
	i, err := store.Get(ref)
	r, refErr := images.ParseReference(ref)
	if !errors.Is(err, images.ErrNotFound) || elsewhere == Local || refErr != nil || r.Registry == "" {
		return i, err
	}
	client, err := f.Client()
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

// OpenPath reads a directory or tarball. An uncompressed tarball is compressed.
func OpenPath(ctx context.Context, file string) (*Bundle, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	name := unfitForName.ReplaceAllString(config.BundleName(abs), "_")
	o := &Bundle{Name: name[:min(len(name), 64)], Path: file}
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file or folder %s", file)
	} else if err != nil {
		return nil, err
	}
	if o.Files, err = bundles.ReadFiles(ctx, bundles.Source{Name: o.Name, Path: file}, bundle.Limits{}); err != nil || info.IsDir() {
		return o, err
	}
	tarball, err := config.ReadUpTo(file, maxTarball)
	if err != nil {
		return nil, err
	}
	if o.Image, err = images.New(tarball, nil); err != nil {
		if tarball, err = images.Pack(o.Files); err == nil {
			o.Image, err = images.New(tarball, nil)
		}
	}
	return o, err
}

// maxTarball bounds a tarball packed as an image, in bytes, like a registry's.
const maxTarball = 100 << 20

// Packed returns the bundle's image, made if necessary.
func (o *Bundle) Packed() (*images.Image, error) {
	if o.Image == nil {
		return nil, fmt.Errorf("%s is a directory\nbuild it first: gatehouse bundle build %s -t NAME", o.Path, o.Path)
	}
	return o.Image, nil
}

// OnDisk returns a bundle's path; an image is written to temp first.
func (f *Images) OnDisk(ctx context.Context, arg, temp string) (string, error) {
	o, err := f.OpenBundle(ctx, arg, Pulled)
	if err != nil {
		return "", err
	}
	if o.Path != "" {
		return o.Path, nil
	}
	return temp, os.WriteFile(temp, o.Image.Tarball(), 0o600)
}

// Inspected is the output of inspect --json.
type Inspected struct {
	Reference   string            `json:"reference,omitempty"`
	Path        string            `json:"path,omitempty"`
	Digest      string            `json:"digest,omitempty"` // of an image
	Layer       string            `json:"layer,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Revision    string            `json:"revision"`
	Content     string            `json:"content"` // SHA-256 of the files read, as in Gatehouse's status
	Roots       []string          `json:"roots"`
	Modules     int               `json:"modules"`
	Rules       int               `json:"rules"`
	Signed      bool              `json:"signed"` // it carries a signature; bundle verify checks it
	Files       []File            `json:"files"`
}

// File is a file of a bundle.
type File struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

// Inspect describes the bundle.
func (o *Bundle) Inspect() (*Inspected, error) {
	b, err := bundle.Read(o.Name, tarball.Tree(o.Files), bundle.Limits{})
	if err != nil {
		return nil, err
	}
	info := b.Info()
	out := &Inspected{Reference: o.Ref, Path: o.Path, Revision: info.Revision, Content: info.Digest, Roots: b.Roots(), Modules: info.Modules, Rules: info.Rules}
	if o.Image != nil {
		out.Digest, out.Layer, out.Annotations = o.Image.Digest(), o.Image.Layer(), o.Image.Annotations()
	}
	_, out.Signed = o.Files[SignatureFile]
	for _, name := range o.SortedNames() {
		out.Files = append(out.Files, File{name, len(o.Files[name])})
	}
	return out, nil
}

// SortedNames returns the bundle's file names in lexical order.
func (o *Bundle) SortedNames() []string {
	names := make([]string, 0, len(o.Files))
	for name := range o.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Sign returns an image with the same files and annotations, and a signature.
func (o *Bundle) Sign(key signature.Key) (*images.Image, error) {
	i, err := o.Packed()
	if err != nil {
		return nil, err
	}
	files := maps.Clone(o.Files)
	if files[SignatureFile], err = signature.Sign(o.Files, key); err != nil {
		return nil, err
	}
	tarball, err := images.Pack(files)
	if err != nil {
		return nil, err
	}
	return images.New(tarball, i.Annotations())
}
