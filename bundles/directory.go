package bundles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"gatehouse/bundles/signature"
	"gatehouse/bundles/tarball"
	"gatehouse/policy/bundle"
	"gatehouse/watch"
)

const (
	// dataLink is the link that a Kubernetes volume swaps to update all of its files atomically.
	dataLink = "..data"

	// A source that changes while it is read is read again after a pause: this many times by Load; Run reports it after this many, and goes
	// on.
	maxUnstable      = 40
	maxUnstableReads = 5
	unstablePause    = 50 * time.Millisecond
)

// errChanging is the error of a read during which something changed. It says nothing about the contents.
var errChanging = errors.New("it keeps changing")

// directory is one listing of a source's directory. It holds the directory open: a rename or link swap above it cannot mix two directories
// in one listing.
type directory struct {
	root   *os.Root
	source Source
	volume bool
	limits bundle.Limits
}

// openDirectory resolves the path, and a volume's link, once.
func openDirectory(s Source, limits bundle.Limits) (*directory, error) {
	d := &directory{source: s, limits: limits.OrDefault()}
	resolved, err := filepath.EvalSymlinks(s.Path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(resolved, dataLink)); err == nil {
		d.volume = true
		target, err := filepath.EvalSymlinks(filepath.Join(resolved, dataLink))
		if err != nil {
			return nil, err
		}
		if filepath.Dir(target) != resolved {
			return nil, fmt.Errorf("%s leads out of the directory, to %s", dataLink, target)
		}
		resolved = target
	}
	d.root, err = os.OpenRoot(resolved)
	return d, err
}

// readPath reads what is at a source's path, and returns its listing, with an error too if there is one. It returns errChanging if the
// listing changed while reading.
func readPath(s Source, limits bundle.Limits) (delivery, *watch.Look, error) {
	d := delivery{from: s.Path}
	before, err := look(s, limits)
	if err == nil && before.Base.IsDir() {
		if d.files, before, err = readFiles(s, limits); err == nil {
			d.copy = copyOfFiles(d.files)
		}
	} else if err == nil {
		d, err = readArchive(s, before, limits)
	}
	// An error means nothing if the source changed meanwhile.
	after, lookErr := look(s, limits)
	changed := !before.Same(after) && (before != nil || lookErr == nil)
	if changed || errors.Is(err, errChanging) {
		return delivery{}, after, fmt.Errorf("reading bundle %q: %w", s.Name, errChanging)
	}
	if _, ok := errors.AsType[bundle.Problems](err); err != nil && !ok {
		err = bundle.Problems{tarball.Problem(s.Name, err)}
	}
	return d, before, err
}

// look lists a source's path without reading a file.
func look(s Source, limits bundle.Limits) (*watch.Look, error) {
	info, err := os.Stat(s.Path)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return listDirectory(s, limits)
	case !info.Mode().IsRegular():
		return nil, errors.New("neither a directory nor a file")
	}
	return &watch.Look{Base: info}, nil
}

// readArchive reads a tarball, which must still be the file that was listed. It must not block on a pipe that has replaced it.
func readArchive(s Source, seen *watch.Look, limits bundle.Limits) (d delivery, err error) {
	d.from = s.Path
	f, err := os.OpenFile(s.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return d, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return d, err
	}
	if !watch.SameFile(info, seen.Base) {
		return d, errChanging
	}
	var raw bytes.Buffer // no more than Unpack reads
	if d.files, d.archive, err = tarball.Unpack(s.Name, io.TeeReader(f, &raw), limits); err == nil {
		d.copy = copyOf(bytes.Clone(raw.Bytes()), d.archive)
	}
	return d, err
}

// readFiles returns the contents of the wanted files and the listing from before they were read.
func readFiles(s Source, limits bundle.Limits) (map[string][]byte, *watch.Look, error) {
	d, err := openDirectory(s, limits)
	if err != nil {
		return nil, nil, err
	}
	defer d.root.Close()
	l, err := d.list()
	if err != nil {
		return nil, nil, err
	}
	files := make(map[string][]byte, len(l.Names))
	for _, name := range l.Names {
		if l.Files[name] == nil {
			files[name] = nil
			continue
		}
		if files[name], err = d.readFile(name, l.Files[name]); err != nil {
			return nil, l, err
		}
	}
	return files, l, nil
}

// readFile reads a file, which must still be the one that was listed. It must not block on a pipe that has replaced it.
func (d *directory) readFile(name string, listed fs.FileInfo) ([]byte, error) {
	f, err := d.root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !watch.SameFile(info, listed) {
		return nil, errChanging
	}
	content, err := io.ReadAll(io.LimitReader(f, listed.Size()+1))
	if err == nil && int64(len(content)) != listed.Size() {
		err = errChanging
	}
	return content, err
}

// listDirectory lists the directory without reading a file.
func listDirectory(s Source, limits bundle.Limits) (*watch.Look, error) {
	d, err := openDirectory(s, limits)
	if err != nil {
		return nil, err
	}
	defer d.root.Close()
	return d.list()
}

// list walks the directory and checks the limits.
func (d *directory) list() (*watch.Look, error) {
	base, err := d.root.Stat(".")
	if err != nil {
		return nil, err
	}
	l := &watch.Look{Base: base, Files: map[string]fs.FileInfo{}}
	var total int64
	var folders []string
	err = fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
			return nil
		case ignored(name):
			return skip(e)
		}
		if err := d.checkName(name); err != nil {
			return err
		}
		if e.IsDir() {
			folders = append(folders, name)
			return d.bound(name, len(folders), total)
		}
		l.Names = append(l.Names, name)
		info, err := d.stat(name, e)
		if err != nil {
			return err
		}
		if info != nil {
			l.Files[name] = info
			total += info.Size()
		}
		return d.bound(name, len(l.Names), total)
	})
	if err != nil {
		return nil, err
	}
	if !d.volume { // a volume's files are never written in place: no watches needed below it
		l.Folders = folders
	}
	return l, nil
}

// relevant reports whether a file's content matters: for the policy, its tests, or its signature.
func (s Source) relevant(name string) bool {
	return bundle.Wanted(name) || strings.HasSuffix(name, "_test.rego") || s.Verification != nil
}

// ignored reports whether a file or folder is hidden or an editor's temporary file.
func ignored(name string) bool {
	base := path.Base(name)
	switch {
	case name == ".manifest", name == signature.File:
		return false
	case strings.HasPrefix(base, "."), strings.HasSuffix(base, "~"), strings.HasSuffix(base, ".swp"):
		return true
	case strings.HasPrefix(base, "#") && strings.HasSuffix(base, "#"):
		return true
	}
	return base == "4913" // vim creates it to test whether the directory is writable
}

func skip(e fs.DirEntry) error {
	if e.IsDir() {
		return fs.SkipDir
	}
	return nil
}

// stat returns a wanted file's info, nil for other files. Links are followed within the directory; a link to a folder is an error, because
// silently omitting its rules could omit a deny rule.
func (d *directory) stat(name string, e fs.DirEntry) (fs.FileInfo, error) {
	linked := e.Type()&fs.ModeSymlink != 0
	if !linked && !d.source.relevant(name) {
		return nil, nil
	}
	info, err := d.root.Stat(filepath.FromSlash(name))
	switch {
	case errors.Is(err, fs.ErrNotExist) && !d.source.relevant(name):
		return nil, nil // a dangling link to an unwanted file
	case err != nil:
		return nil, err
	case info.IsDir() && linked:
		return nil, tarball.FileError(name, "a link to a folder is not followed")
	case !d.source.relevant(name):
		return nil, nil
	case !info.Mode().IsRegular():
		return nil, tarball.FileError(name, "not a regular file")
	case info.Size() > d.limits.File:
		return nil, tarball.FileError(name, fmt.Sprintf("larger than %d bytes", d.limits.File))
	}
	return info, nil
}

func (d *directory) checkName(name string) error {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("the file name %q is not printable text", name)
	}
	if strings.Count(name, "/") > d.limits.Depth {
		return tarball.FileError(name, fmt.Sprintf("more than %d folders deep", d.limits.Depth))
	}
	return nil
}

// bound stops the walk of a directory that is far too large. Unwanted files count too: they cost time at each listing.
func (d *directory) bound(name string, count int, total int64) error {
	switch {
	case count > d.limits.Files:
		return tarball.FileError(name, fmt.Sprintf("more than %d files or folders", d.limits.Files))
	case total > d.limits.Total:
		return tarball.FileError(name, fmt.Sprintf("all files together are larger than %d bytes", d.limits.Total))
	}
	return nil
}

// ReadFiles returns a bundle's files from a directory or a tarball, by their slash-separated paths: those that a Manager would read,
// including tests. A directory that changes meanwhile is read again. Errors are as Load's. The caller may change the map, but not the
// contents.
func ReadFiles(ctx context.Context, s Source, limits bundle.Limits) (map[string][]byte, error) {
	s, err := checkSource(s)
	if err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		d, l, err := readPath(s, limits)
		if errors.Is(err, errChanging) && attempt < maxUnstable {
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("reading bundle %q: %w", s.Name, ctx.Err())
			case <-time.After(unstablePause):
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		for name := range d.files {
			if l.Base.IsDir() && l.Files[name] == nil { // only its name matters
				delete(d.files, name)
			}
		}
		return d.files, nil
	}
}

// ReadTarball returns all files of a bundle's tarball, as a Manager would read them. Errors are as Load's.
func ReadTarball(name string, raw []byte, limits bundle.Limits) (map[string][]byte, error) {
	files, _, err := tarball.Unpack(name, bytes.NewReader(raw), limits)
	return files, err
}
