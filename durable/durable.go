// Package durable writes files so that, whenever the process or the machine dies, the old content is there or the new one, whole.
//
// A file is written beside its place, flushed to the disk, and renamed over the old one; then the folder is flushed, else the rename itself
// may be lost. On any error, also a full disk, the old content stays and nothing is left beside it. What a crash leaves beside it has one
// name for each file (path.new), so that crashes do not fill the disk: the next writing takes it away. For the same reason one process
// writes a file at a time; where several do they hold a lock, or make it with [Create]. A link in the place of the file is replaced, never
// followed, and one in the place of path.new neither.
//
// google/renameio was looked at: it gives what it writes beside a name by chance, which piles up, and does not flush the folder.
//
// It is a foundation: it imports nothing of ours, and all may import it.
package durable

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Ending is what a file that is not yet in its place has behind its name.
const Ending = ".new"

// Write puts what write writes in the place of a file. The new file has the mode, less the process's umask. The folder must exist.
func Write(path string, mode fs.FileMode, write func(io.Writer) error) error {
	draft := path + Ending
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	buffered := func(w io.Writer) error {
		b := bufio.NewWriterSize(w, 1<<20)
		if err := write(b); err != nil {
			return err
		}
		return b.Flush()
	}
	return finish(f, buffered, func() error { return os.Rename(draft, path) })
}

// WriteFile is Write of what is in memory.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	return Write(path, mode, func(w io.Writer) error { _, err := w.Write(content); return err })
}

// Create makes a file of mode 0600 where there is none; else it returns fs.ErrExist and the file stays as it is. Of several processes that
// try at once one succeeds.
func Create(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*"+Ending)
	if err != nil {
		return err
	}
	return finish(f, func(w io.Writer) error { _, err := w.Write(content); return err },
		func() error { return os.Link(f.Name(), path) })
}

// finish writes a file that is not yet in its place and has it put there. It closes it, and removes what is left.
func finish(f *os.File, write func(io.Writer) error, place func() error) error {
	defer os.Remove(f.Name()) // gone already where it was renamed
	err := write(f)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = place()
	}
	if err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(f.Name()))
}

// SyncFolder flushes the names in a folder to the disk.
func SyncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
