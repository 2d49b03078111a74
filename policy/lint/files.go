package lint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// MaxFile bounds a file of Rego, in bytes.
const MaxFile = 16 << 20

// FormatFiles formats what is below the paths. It gives write, where that is not nil, each that changes, and
// returns their names. All that is wrong is reported at once.
func FormatFiles(paths []string, write func(file string, text []byte) error) (changed []string, err error) {
	if len(paths) == 0 {
		paths = []string{"."}
	}
	var errs []error
	for _, path := range paths {
		err := filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && file != path && strings.HasPrefix(entry.Name(), "."):
				return fs.SkipDir
			case !entry.IsDir() && file == path && !strings.HasSuffix(file, ".rego"):
				return fmt.Errorf("%s: files of Rego are called *.rego", file)
			case entry.IsDir() || !strings.HasSuffix(file, ".rego"):
				return nil
			}
			before, err := readUpTo(file)
			if err != nil {
				return err
			}
			after, err := Format(file, before)
			if err != nil {
				errs = append(errs, err)
				return nil
			}
			if bytes.Equal(before, after) {
				return nil
			}
			changed = append(changed, file)
			if write != nil {
				return write(file, after)
			}
			return nil
		})
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

func readUpTo(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(text) > MaxFile {
		err = fmt.Errorf("%s is larger than %d bytes", file, MaxFile)
	}
	return text, err
}
