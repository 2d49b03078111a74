package format

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"gatehouse/directory"
)

// File names in a folder.
const (
	ManifestFile  = "manifest.yaml"
	ObjectsFile   = "objects.jsonl"
	RelationsFile = "relations.jsonl"
)

const (
	maxManifest = 1 << 20
	maxEntries  = 10_000 // of a folder
	maxText     = 64 << 30
	maxWindow   = 64 << 20 // of zstd
)

// form is a file's format.
type form string

const (
	formJSON     form = "JSON"
	formLines    form = "JSON lines"
	formYAML     form = "YAML"
	formSnapshot form = "snapshot"
)

// source is a data file.
type source struct {
	path   string
	form   form
	packed string // "gz", "zst", or ""
	want   kind   // the kinds of records it may contain
	info   fs.FileInfo
}

// folder is the files found under a path.
type folder struct {
	path     string
	alone    bool   // path is a file
	manifest string // its file; "": none
	misnamed string // a file that is a manifest by another name; "": none
	sources  []*source
}

// find lists the files under a path.
func find(path string) (*folder, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the directory: %w", err)
	}
	if !info.IsDir() {
		s, err := single(path)
		if err != nil {
			return nil, err
		}
		return &folder{path: path, alone: true, sources: []*source{s}}, nil
	}
	entries, err := readNames(path)
	if err != nil {
		return nil, fmt.Errorf("reading the directory: %w", err)
	}
	f := &folder{path: path}
	for _, name := range entries {
		full := filepath.Join(path, name)
		if name == ManifestFile {
			f.manifest = full
		} else if strings.EqualFold(name, ManifestFile) || strings.EqualFold(name, "manifest.yml") {
			f.misnamed = full
		} else if s := sourceOf(full, name); s != nil {
			f.sources = append(f.sources, s)
		}
	}
	for _, s := range f.sources {
		if err := s.stat(); err != nil {
			return nil, err
		}
	}
	return f, f.fits(path)
}

// readNames are the names in a folder, sorted, without hidden ones: a mounted ConfigMap keeps its versions in those.
func readNames(path string) ([]string, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > maxEntries {
		return nil, fmt.Errorf("%s has more than %d files; name a folder with the directory's alone", path, maxEntries)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, ".") }), nil
}

// sourceOf is a file of a folder as a source, nil if its name does not match.
func sourceOf(path, name string) *source {
	base, form, packed := split(name)
	s := &source{path: path, form: form, packed: packed}
	switch {
	case form == "":
		return nil
	case form == formSnapshot:
	case base == "directory":
	case form == formYAML: // other YAML files are ignored
		return nil
	case base == "objects" || strings.HasSuffix(base, "_objects"): // Topaz's templates have citadel_objects.json
		s.want = kindObject
	case base == "relations" || strings.HasSuffix(base, "_relations"):
		s.want = kindRelation
	default:
		return nil
	}
	return s
}

// split splits a file name into base, format and compression.
func split(name string) (base string, f form, packed string) {
	for _, ending := range []string{"gz", "zst"} {
		if rest, ok := strings.CutSuffix(name, "."+ending); ok {
			name, packed = rest, ending
		}
	}
	ending := filepath.Ext(name)
	base = strings.TrimSuffix(name, ending)
	switch strings.ToLower(ending) {
	case ".json":
		return base, formJSON, packed
	case ".jsonl", ".ndjson":
		return base, formLines, packed
	case ".yaml", ".yml":
		return base, formYAML, packed
	case ".snapshot":
		return base, formSnapshot, packed
	}
	return base, "", packed
}

// single is a file given by name: its beginning identifies a snapshot, otherwise its name the format.
func single(path string) (*source, error) {
	_, form, packed := split(filepath.Base(path))
	s := &source{path: path, form: form, packed: packed}
	if err := s.stat(); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the directory: %w", err)
	}
	defer f.Close()
	head := make([]byte, directory.HeadBytes)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	switch {
	case directory.IsSnapshot(head[:n]):
		s.form, s.packed = formSnapshot, ""
	case s.form == "":
		return nil, fmt.Errorf("%s: neither a snapshot nor a file whose name ends in .jsonl, .json, .yaml or .snapshot (with .gz or .zst behind it); rename it", path)
	}
	return s, nil
}

func (s *source) stat() error {
	info, err := os.Stat(s.path)
	if err != nil {
		return fmt.Errorf("reading the directory: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; a directory is read from files, which can be read twice", s.path)
	}
	s.info = info
	return nil
}

// changed reports whether a file changed since it was listed.
func (s *source) changed() bool {
	now, err := os.Stat(s.path)
	return err != nil || !os.SameFile(now, s.info) || now.Size() != s.info.Size() || !now.ModTime().Equal(s.info.ModTime())
}

// fits checks that the files of a folder can be used together.
func (f *folder) fits(path string) error {
	if len(f.sources) == 0 {
		return fmt.Errorf("%s: no directory in this folder: it has neither %s and %s, nor objects.json and relations.json, nor directory.yaml or a snapshot", path, ObjectsFile, RelationsFile)
	}
	first := f.sources[0]
	split := false
	var has [kindRelation + 1]bool
	for _, s := range f.sources {
		has[s.want] = true
		split = split || s.want != kindAny
		if s.form != first.form || s.packed != first.packed || s.want == kindAny && s != first {
			return fmt.Errorf("%s: %s beside %s: which of them is the directory is not defined; leave one", path, filepath.Base(first.path), filepath.Base(s.path))
		}
	}
	switch {
	case split && has[kindAny]:
		return fmt.Errorf("%s: a whole directory beside objects or relations: which of them counts is not defined; leave one", path)
	case split && !has[kindRelation]:
		return fmt.Errorf("%s: objects without relations; an empty %s says that there are none", path, RelationsFile)
	case split && !has[kindObject]:
		return fmt.Errorf("%s: relations without objects; add %s", path, ObjectsFile)
	}
	return nil
}

// open opens a file for reading, decompressed and without a byte order mark. n counts the raw bytes read.
func (s *source) open(n *atomic.Int64) (io.ReadCloser, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, fmt.Errorf("reading the directory: %w", err)
	}
	in := opened{Reader: &counter{f, n}, close: f.Close}
	switch s.packed {
	case "gz":
		z, err := gzip.NewReader(in.Reader)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("reading %s: %w", s.path, err)
		}
		in.Reader = z
	case "zst":
		z, err := zstd.NewReader(in.Reader, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("reading %s: %w", s.path, err)
		}
		in.Reader = z
		in.close = func() error { z.Close(); return f.Close() }
	}
	in.Reader = &bounded{in: in.Reader, left: maxText}
	if s.form != formSnapshot {
		in.Reader, err = withoutBOM(in.Reader)
	}
	if err != nil {
		_ = in.Close() // read-only
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return in, nil
}

type opened struct {
	io.Reader
	close func() error
}

func (o opened) Close() error { return o.close() }

type counter struct {
	in io.Reader
	n  *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// bounded returns an error, not EOF, when the limit is exceeded.
type bounded struct {
	in   io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("more than %d GiB of text", int64(maxText>>30))
	}
	return n, err
}

// withoutBOM skips a UTF-8 byte order mark, and rejects UTF-16.
func withoutBOM(in io.Reader) (io.Reader, error) {
	var head [3]byte
	n, err := io.ReadFull(in, head[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	switch {
	case string(head[:n]) == "\xef\xbb\xbf":
		return in, nil
	case bytes.HasPrefix(head[:n], []byte("\xff\xfe")), bytes.HasPrefix(head[:n], []byte("\xfe\xff")):
		return nil, errors.New("UTF-16; save it as UTF-8")
	}
	return io.MultiReader(bytes.NewReader(head[:n]), in), nil
}
