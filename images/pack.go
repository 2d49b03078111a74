package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// Pack makes a bundle's tarball of files by their slash-separated paths below the bundle's top. The same files give the same
// bytes: entries are in lexical order, owned by nobody, from 1970, with mode 0644, and folders have none. (A later version
// of Go may compress better, and then the bytes are others.)
func Pack(files map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	w := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !fs.ValidPath(name) || name == "." {
			return nil, fmt.Errorf("packing a bundle: %q is not a path inside the bundle", name)
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("packing a bundle: %s: %w", name, err)
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, fmt.Errorf("packing a bundle: %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("packing a bundle: %w", err)
	}
	if err := zipped.Close(); err != nil {
		return nil, fmt.Errorf("packing a bundle: %w", err)
	}
	return out.Bytes(), nil
}
