package tarball

import (
	"bytes"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// tree is a read-only file system in memory. A file whose content was not read has a name only, and is empty.
type tree struct {
	files map[string][]byte
	dirs  map[string][]fs.DirEntry // sorted by name
}

// Tree returns files, by their paths, as a read-only file system for bundle.Read. Neither map nor contents may change afterwards.
func Tree(files map[string][]byte) fs.FS {
	t := &tree{files: files, dirs: map[string][]fs.DirEntry{".": nil}}
	for file, content := range files {
		t.dirs[t.folder(path.Dir(file))] = append(t.dirs[path.Dir(file)], entry{name: path.Base(file), size: int64(len(content))})
	}
	for _, entries := range t.dirs {
		slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	}
	return t
}

// folder adds a folder and its parents to the listings.
func (t *tree) folder(dir string) string {
	if _, ok := t.dirs[dir]; !ok {
		t.dirs[dir] = nil
		parent := t.folder(path.Dir(dir))
		t.dirs[parent] = append(t.dirs[parent], entry{name: path.Base(dir), dir: true})
	}
	return dir
}

func (t *tree) Open(name string) (fs.File, error) {
	if content, ok := t.files[name]; ok {
		return &file{entry: entry{name: path.Base(name), size: int64(len(content))}, Reader: bytes.NewReader(content)}, nil
	}
	if _, ok := t.dirs[name]; ok {
		return &file{entry: entry{name: path.Base(name), dir: true}, Reader: bytes.NewReader(nil)}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, ok := t.dirs[name]
	if !ok {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	return slices.Clone(entries), nil
}

// entry is the fs.FileInfo and fs.DirEntry of a file or folder.
type entry struct {
	name string
	size int64
	dir  bool
}

func (e entry) Name() string               { return e.name }
func (e entry) Size() int64                { return e.size }
func (e entry) IsDir() bool                { return e.dir }
func (e entry) ModTime() time.Time         { return time.Time{} }
func (e entry) Sys() any                   { return nil }
func (e entry) Type() fs.FileMode          { return e.Mode().Type() }
func (e entry) Info() (fs.FileInfo, error) { return e, nil }

func (e entry) Mode() fs.FileMode {
	if e.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

type file struct {
	entry
	io.Reader
}

func (f *file) Stat() (fs.FileInfo, error) { return f.entry, nil }
func (f *file) Close() error               { return nil }
