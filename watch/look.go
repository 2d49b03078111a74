package watch

import (
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
)

// Look is the state of a target by stat: enough to detect a change without opening a file.
type Look struct {
	Base    fs.FileInfo            // the folder behind any links, or the file
	Names   []string               // of all files of a folder, in lexical order
	Files   map[string]fs.FileInfo // by name; nil for files whose content is irrelevant
	Folders []string               // to be watched too: slash-separated, below the target, without itself
	Beside  []fs.FileInfo          // other files whose change counts as one of the target; nil: none
}

// LookAt stats one file, or a folder without its contents.
func LookAt(path string) *Look {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return &Look{Base: info}
}

// Same reports whether two looks show the same state.
func (l *Look) Same(other *Look) bool {
	if l == nil || other == nil {
		return l == other
	}
	if !slices.Equal(l.Names, other.Names) || !slices.EqualFunc(l.Beside, other.Beside, SameFile) || !os.SameFile(l.Base, other.Base) {
		return false
	}
	if !l.Base.IsDir() || !other.Base.IsDir() {
		return SameFile(l.Base, other.Base)
	}
	for _, name := range l.Names {
		if !SameFile(l.Files[name], other.Files[name]) {
			return false
		}
	}
	return true
}

// fresh reports whether a file was written so recently that another write may not show: a file system's clock may be
// coarse.
func (l *Look) fresh() bool {
	if l == nil || l.Base.IsDir() {
		return false
	}
	age := time.Since(l.Base.ModTime())
	return age >= 0 && age < 2*time.Second
}

// SameFile compares two stat results; both may be nil.
func SameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}

// ReadFile returns the content of a regular file of at most limit bytes. It does not block on a named pipe.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	if err != nil {
		return nil, err
	}
	return content, nil
}

const maxLinks = 40 // on the way to a file, as in Linux

// stepsTo lists the paths whose creation or replacement changes where path leads: each link on the way, the first
// missing folder, and last the final target.
func stepsTo(path string) []string {
	var steps []string
	at, rest := string(filepath.Separator), strings.Split(path, string(filepath.Separator))
	for links := 0; len(rest) > 0; {
		at, rest = filepath.Join(at, rest[0]), rest[1:]
		info, err := os.Lstat(at)
		if last := len(rest) == 0; last || err != nil || info.Mode()&fs.ModeSymlink != 0 {
			steps = append(steps, at)
		}
		switch {
		case err != nil && len(rest) > 0:
			return append(steps, filepath.Join(at, filepath.Join(rest...)))
		case err != nil:
			return steps
		case info.Mode()&fs.ModeSymlink == 0:
			continue
		}
		target, err := os.Readlink(at)
		if links++; err != nil || links > maxLinks {
			return steps
		}
		if filepath.IsAbs(target) {
			at = string(filepath.Separator)
		} else {
			at = filepath.Dir(at)
		}
		rest = append(strings.Split(target, string(filepath.Separator)), rest...)
	}
	return steps
}
