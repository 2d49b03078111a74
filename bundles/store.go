package bundles

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gatehouse/durable"
	"gatehouse/watch"
)

// A store keeps the last good bundle of one remote source on disk: the tarball as it came, and the deltas after it. What is read back is
// checked like a download, from its first byte to its signature.
//
// The file name.bundle holds a line that names the format, a line of JSON (kept), the tarballs, and the SHA-256 of all that in its last 32
// bytes. The file name.seen records when the source last confirmed it.
type store struct {
	dir, name string
	source    string // a file from another source is not used
	limit     int64  // bytes of one tarball
	seen      time.Time
}

// kept describes the tarballs in a file.
type kept struct {
	Source    string    `json:"source"`    // where they are from
	Tag       string    `json:"tag"`       // for the next request: an ETag or a digest
	Confirmed time.Time `json:"confirmed"` // when the source last confirmed that this is current
	Sizes     []int64   `json:"sizes"`     // bytes of each tarball: a bundle, then deltas in order
	Serial    int64     `json:"serial"`    // the highest that was ever active, if the source requires one
	parts     [][]byte
}

// confirmation is the content of name.seen.
type confirmation struct {
	State     string    `json:"state"` // of the bundle that was confirmed
	Confirmed time.Time `json:"confirmed"`
}

const (
	storeFormat = "gatehouse bundle 1\n"
	maxKeptHead = 64 << 10 // bytes of the JSON line
	maxDeltas   = 64       // deltas per bundle, before it is fetched whole again

	// A confirmation is written at most this often, so a bundle may seem this much older after a restart.
	confirmEvery = time.Minute
)

var errDamaged = errors.New("the file is damaged")

func (s *store) file(suffix string) string { return filepath.Join(s.dir, s.name+suffix) }

// stateAfter returns the state after a tarball: a whole bundle applies to the empty state, a delta to the one before.
func stateAfter(before string, part []byte) string {
	sum := sha256.Sum256(part)
	if before != "" {
		sum = sha256.Sum256([]byte(before + hex.EncodeToString(sum[:])))
	}
	return hex.EncodeToString(sum[:])
}

// stateOf returns the state after a list of tarballs.
func stateOf(parts [][]byte) string {
	state := ""
	for _, part := range parts {
		state = stateAfter(state, part)
	}
	return state
}

// save replaces the file. On an error the previous one stays.
func (s *store) save(k kept) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("keeping bundle %q: %w", s.name, err)
		}
	}()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	k.Source, k.Sizes = s.source, nil
	for _, part := range k.parts {
		k.Sizes = append(k.Sizes, int64(len(part)))
	}
	head, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if len(head) >= maxKeptHead {
		return errors.New("its tag or source is too long")
	}
	return durable.Write(s.file(".bundle"), 0o600, func(w io.Writer) error {
		sum := sha256.New()
		both := io.MultiWriter(w, sum)
		if _, err := io.WriteString(both, storeFormat+string(head)+"\n"); err != nil {
			return err
		}
		for _, part := range k.parts {
			if _, err := both.Write(part); err != nil {
				return err
			}
		}
		_, err := w.Write(sum.Sum(nil))
		return err
	})
}

// load returns the file's contents; fs.ErrNotExist if there is none. A file that is damaged or from another source is an error.
func (s *store) load() (k kept, err error) {
	f, err := os.Open(s.file(".bundle"))
	if err != nil {
		return kept{}, err
	}
	defer f.Close()
	sum := sha256.New()
	r := bufio.NewReaderSize(f, maxKeptHead)
	if k, err = s.loadHead(r, sum); err != nil {
		return kept{}, err
	}
	for _, size := range k.Sizes {
		part := bytes.NewBuffer(make([]byte, 0, min(size, 1<<20)+bytes.MinRead))
		n, err := io.Copy(io.MultiWriter(part, sum), io.LimitReader(r, size))
		if err != nil || n != size {
			return kept{}, fmt.Errorf("%w: it is cut off", errDamaged)
		}
		k.parts = append(k.parts, part.Bytes())
	}
	rest, err := io.ReadAll(io.LimitReader(r, sha256.Size+1))
	if err != nil || !bytes.Equal(rest, sum.Sum(nil)) {
		return kept{}, fmt.Errorf("%w: its checksum does not match", errDamaged)
	}
	if k.Source != s.source {
		return kept{}, fmt.Errorf("it is from %s", k.Source)
	}
	s.confirmedLater(&k)
	return k, nil
}

// loadHead reads the header in front of the tarballs.
func (s *store) loadHead(r *bufio.Reader, sum hash.Hash) (k kept, err error) {
	format := make([]byte, len(storeFormat))
	if _, err := io.ReadFull(r, format); err != nil || string(format) != storeFormat {
		return k, fmt.Errorf("%w: its format is unknown", errDamaged)
	}
	head, err := r.ReadSlice('\n')
	if err != nil || json.Unmarshal(head, &k) != nil {
		return k, fmt.Errorf("%w: its header cannot be read", errDamaged)
	}
	sum.Write(format)
	sum.Write(head)
	if len(k.Sizes) == 0 || len(k.Sizes) > 1+maxDeltas {
		return k, fmt.Errorf("%w: it holds %d tarballs", errDamaged, len(k.Sizes))
	}
	var total int64
	for _, size := range k.Sizes {
		if size < 1 || size > s.limit {
			return k, fmt.Errorf("%w: a tarball of %d bytes", errDamaged, size)
		}
		if total += size; total > 2*s.limit {
			return k, fmt.Errorf("%w: tarballs of more than %d bytes", errDamaged, 2*s.limit)
		}
	}
	return k, nil
}

// confirmedLater takes a later time from name.seen, if that is about the same bundle.
func (s *store) confirmedLater(k *kept) {
	text, err := watch.ReadFile(s.file(".seen"), maxKeptHead)
	var c confirmation
	if err != nil || json.Unmarshal(text, &c) != nil {
		return // the bundle then seems older than it is
	}
	if c.State == stateOf(k.parts) && c.Confirmed.After(k.Confirmed) {
		k.Confirmed = c.Confirmed
	}
}

// confirm records that the source has just confirmed the bundle.
func (s *store) confirm(state string, now time.Time) error {
	if now.Sub(s.seen) < confirmEvery {
		return nil
	}
	s.seen = now
	text, err := json.Marshal(confirmation{State: state, Confirmed: now})
	if err != nil {
		return err
	}
	return durable.WriteFile(s.file(".seen"), text, 0o600)
}

// Kept is the bundle that a process keeps on disk of a remote source, by its name and its Remote.From: for tools, beside that process. dir is
// that process's Config.Dir.
func Kept(dir, name, from string, limit int64) ([]byte, error) {
	k, err := (&store{dir: dir, name: name, source: from, limit: limit}).load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no bundle of %s was kept in %s yet", from, dir)
	case err != nil:
		return nil, err
	case len(k.parts) != 1:
		return nil, errors.New("the bundle that was kept was changed by deltas")
	}
	return k.parts[0], nil
}
