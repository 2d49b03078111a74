package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse/durable"
)

// Store keeps images in a directory, as an OCI image layout that other tools read too. Each image in it has at least one
// name; with its last name it goes. Several processes may use one directory: changes wait for each other, and each is there
// as a whole or not at all, whenever the machine stops.
//
// The layout is written here because oras-go's own overwrites index.json in place, in no particular order.
type Store struct {
	dir   string
	limit int64 // bytes of a tarball
}

// Stored is one name in a store and what it stands for.
type Stored struct {
	Reference   string            `json:"reference"`
	Digest      string            `json:"digest"`
	Layer       string            `json:"layer"` // digest of the tarball
	Size        int64             `json:"size"`  // bytes of the tarball
	Annotations map[string]string `json:"annotations,omitempty"`
}

const (
	maxIndexFile = 16 << 20
	lockWait     = 30 * time.Second // for another process to finish a change
)

// NewStore is the store in a directory, which need not exist before the first image is put into it.
func NewStore(dir string) (*Store, error) {
	if dir == "" {
		return nil, errors.New("image store: it needs a directory")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	return &Store{dir: dir, limit: defaultTarball}, nil
}

// Put keeps an image under a name, which before may have stood for another one.
func (s *Store) Put(i *Image, name string) error {
	r, err := s.name(name)
	if err != nil {
		return err
	}
	return s.change(func(index *ocispec.Index) error {
		blobs, err := i.blobs()
		if err != nil {
			return err
		}
		blobs[digest.Digest(i.digest)] = i.raw
		for d, content := range blobs {
			if err := durable.WriteFile(s.blob(d.String()), content, 0o600); err != nil {
				return err
			}
		}
		rename(index, r.String(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(i.digest), Size: int64(len(i.raw))})
		return nil
	})
}

// Tag gives an image of the store a further name.
func (s *Store) Tag(existing, name string) error {
	r, err := s.name(name)
	if err != nil {
		return err
	}
	return s.change(func(index *ocispec.Index) error {
		d, err := find(index, existing)
		if err == nil {
			rename(index, r.String(), d)
		}
		return err
	})
}

// Remove takes a name away. An image that has no other goes with it.
func (s *Store) Remove(name string) error {
	return s.change(func(index *ocispec.Index) error {
		d, err := find(index, name)
		if err != nil {
			return err
		}
		r, _ := ParseReference(name)
		index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool {
			return m.Digest == d.Digest && (r.Digest != "" || name == d.Digest.String() || m.Annotations[ocispec.AnnotationRefName] == r.String())
		})
		return nil
	})
}

// Get returns an image by one of its names, or by its digest alone.
func (s *Store) Get(name string) (i *Image, err error) {
	err = s.read(func(index *ocispec.Index) error {
		d, err := find(index, name)
		if err != nil {
			return err
		}
		i, err = s.image(d)
		return err
	})
	return i, err
}

// List returns all names in lexical order.
func (s *Store) List() (list []Stored, err error) {
	err = s.read(func(index *ocispec.Index) error {
		for _, d := range index.Manifests {
			raw, m, err := s.manifest(d)
			if err != nil {
				return fmt.Errorf("%s: %w", d.Annotations[ocispec.AnnotationRefName], err)
			}
			i := &Image{digest: sum(raw), manifest: m}
			list = append(list, Stored{Reference: d.Annotations[ocispec.AnnotationRefName], Digest: i.digest, Layer: i.Layer(), Size: i.layer().Size,
				Annotations: i.Annotations()})
		}
		slices.SortFunc(list, func(a, b Stored) int { return strings.Compare(a.Reference, b.Reference) })
		return nil
	})
	return list, err
}

// name is a name that an image can have here.
func (s *Store) name(name string) (Reference, error) {
	r, err := ParseReference(name)
	if err == nil && r.Digest != "" {
		return r, fmt.Errorf("image reference %q: a name has a tag, not a digest", name)
	}
	return r, err
}

// rename makes a name stand for an image, and no other.
func rename(index *ocispec.Index, name string, d ocispec.Descriptor) {
	index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool { return m.Annotations[ocispec.AnnotationRefName] == name })
	d.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	index.Manifests = append(index.Manifests, d)
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int {
		return strings.Compare(a.Annotations[ocispec.AnnotationRefName], b.Annotations[ocispec.AnnotationRefName])
	})
}

// find looks up a name, a name with a digest, or a digest.
func find(index *ocispec.Index, name string) (ocispec.Descriptor, error) {
	wanted, full := name, name
	if checkDigest(name) != nil {
		r, err := ParseReference(name)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		wanted, full = r.Digest, r.String()
	}
	for _, d := range index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == full || wanted != "" && d.Digest.String() == wanted {
			return d, nil
		}
	}
	return ocispec.Descriptor{}, &noImageError{"there is no image " + full + " in the local store: gatehouse bundle images lists them"}
}

// image reads an image whole and verifies it.
func (s *Store) image(d ocispec.Descriptor) (*Image, error) {
	raw, m, err := s.manifest(d)
	if err != nil {
		return nil, err
	}
	i := &Image{digest: sum(raw), resolved: sum(raw), raw: raw, manifest: m}
	if i.tarball, err = s.readBlob(i.layer(), s.limit); err != nil {
		return nil, err
	}
	i.config, err = s.readBlob(m.Config, maxManifest)
	return i, err
}

func (s *Store) manifest(d ocispec.Descriptor) ([]byte, ocispec.Manifest, error) {
	raw, err := s.readBlob(d, maxManifest)
	if err != nil {
		return nil, ocispec.Manifest{}, err
	}
	m, err := parseManifest(raw)
	return raw, m, err
}

func (s *Store) blob(d string) string {
	return filepath.Join(s.dir, ocispec.ImageBlobsDir, "sha256", strings.TrimPrefix(d, "sha256:"))
}

func (s *Store) readBlob(d ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDigest(d.Digest.String()); err != nil {
		return nil, err
	}
	content, err := readFile(s.blob(d.Digest.String()), limit)
	if err != nil {
		return nil, err
	}
	return content, verify(content, d)
}

// readFile reads a file up to a limit.
func readFile(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", file, limit)
	}
	return content, err
}

// read shows the index as it stands. Where there is no store yet, it is empty.
func (s *Store) read(use func(*ocispec.Index) error) error {
	unlock, err := s.lock(os.O_RDONLY, syscall.LOCK_SH)
	switch {
	case err == nil:
		defer unlock()
	case !errors.Is(err, fs.ErrNotExist): // as where another tool made the layout
		return s.wrap(err)
	}
	index, err := s.index()
	if err != nil {
		return s.wrap(err)
	}
	return s.wrap(use(index))
}

// change has the index changed and written, and sweeps out what lost its last name.
func (s *Store) change(change func(*ocispec.Index) error) error {
	return s.wrap(s.tryChange(change))
}

func (s *Store) tryChange(change func(*ocispec.Index) error) error {
	if err := os.MkdirAll(filepath.Join(s.dir, ocispec.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return err
	}
	unlock, err := s.lock(os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	index, err := s.index()
	if err != nil {
		return err
	}
	before := slices.Clone(index.Manifests)
	if err := change(index); err != nil {
		return err
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(s.dir, ocispec.ImageLayoutFile), layout, 0o600); err != nil {
		return err
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(s.dir, ocispec.ImageIndexFile), raw, 0o600); err != nil {
		return err
	}
	return s.sweep(before, index.Manifests)
}

// sweep removes the blobs of images that are in the index no more and that no other image has. Where an image of the index
// cannot be read, it is not known what is its own, and nothing goes.
func (s *Store) sweep(before, after []ocispec.Descriptor) error {
	var used []string
	for _, d := range after {
		parts, err := s.parts(d)
		if err != nil {
			return nil
		}
		used = append(used, parts...)
	}
	for _, d := range before {
		parts, err := s.parts(d)
		if err != nil {
			continue // removed before, as an image with two names
		}
		for _, part := range parts {
			if slices.Contains(used, part) {
				continue
			}
			if err := os.Remove(s.blob(part)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// parts are the digests of all blobs of an image.
func (s *Store) parts(d ocispec.Descriptor) ([]string, error) {
	_, m, err := s.manifest(d)
	if err != nil {
		return nil, err
	}
	parts := []string{d.Digest.String(), m.Config.Digest.String()}
	for _, layer := range m.Layers {
		parts = append(parts, layer.Digest.String())
	}
	for _, part := range parts {
		if err := checkDigest(part); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

func (s *Store) index() (*ocispec.Index, error) {
	index := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	file := filepath.Join(s.dir, ocispec.ImageIndexFile)
	raw, err := readFile(file, maxIndexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, index); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return index, nil
}

// lock waits for other processes, and for other users of this store.
func (s *Store) lock(flags, how int) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, ".lock"), flags, 0o644)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(until) {
			_ = f.Close()
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
	}
}

// noImageError is ErrNotFound in words.
type noImageError struct{ text string }

func (e *noImageError) Error() string { return e.text }
func (e *noImageError) Unwrap() error { return ErrNotFound }

func (s *Store) wrap(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*noImageError](err); ok {
		return err
	}
	return fmt.Errorf("image store %s: %w", s.dir, err)
}
