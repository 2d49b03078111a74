package bundles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"gatehouse/policy"
)

// ReadFiles returns the files of a bundle that is a directory or a tarball, by their slash-separated paths below its top:
// those that a Manager would read of it, tests included. A directory that changes meanwhile is read again. Errors are as
// Load's. The caller may keep and change the map, not the contents.
func ReadFiles(ctx context.Context, s Source, limits policy.Limits) (map[string][]byte, error) {
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
			if l.Base.IsDir() && l.Files[name] == nil { // there by name only
				delete(d.files, name)
			}
		}
		return d.files, nil
	}
}

// ReadTarball returns the files of a bundle's tarball, all of them, as a Manager would take them. Errors are as Load's.
func ReadTarball(name string, tarball []byte, limits policy.Limits) (map[string][]byte, error) {
	files, _, err := unpack(name, bytes.NewReader(tarball), limits)
	return files, err
}

// Tree shows files by their paths as a read-only file system, as policy.Read wants it. Neither map nor contents may change
// afterwards.
func Tree(files map[string][]byte) fs.FS { return newTree(files) }
