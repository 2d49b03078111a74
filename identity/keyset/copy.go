package keyset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"gatehouse/durable"
)

const (
	copyFormat   = "gatehouse key set 1"
	maxCopyBytes = maxBytes + 64<<10
	copyInterval = time.Minute     // an unchanged set is written again this often, so that the copy's age is right
	copyFuture   = 5 * time.Minute // a copy from further ahead is of a clock that was wrong
)

// Copy is the file that keeps the last good set of one issuer's URL. Its first line is the SHA-256 of the rest, its second
// a JSON object that says whose keys they are and when they were fetched, and then come the bytes as the provider sent them.
// What is read back goes through every check of a fetched set. The checksum is against accidents; whoever may write into the
// folder is trusted, so it is made for us alone.
type Copy struct {
	path           string
	issuer, source string // for people
	id             string // issuer and URL, hashed: neither belongs in a file's name, and a URL's query may be secret

	sum     [sha256.Size]byte // of the set that was written last
	written time.Time
}

// copyHeader is a copy's second line.
type copyHeader struct {
	Format    string    `json:"format"`
	ID        string    `json:"id"`
	Issuer    string    `json:"issuer"` // this and Source are for people
	Source    string    `json:"source"`
	FetchedAt time.Time `json:"fetched_at"`
}

// NewCopy is the copy, in a folder, of what an issuer's keys are fetched from: a URL of keys or of metadata. source is the same for people.
func NewCopy(dir, issuer, where, source string) *Copy {
	sum := sha256.Sum256([]byte(issuer + "\x00" + where))
	id := hex.EncodeToString(sum[:])
	return &Copy{path: filepath.Join(dir, id[:32]+".keys"), id: id, issuer: issuer, source: source}
}

// Path is the file.
func (c *Copy) Path() string { return c.path }

// Read gives the set and when it was fetched. fs.ErrNotExist is no copy; any other error is one that must not be used.
func (c *Copy) Read(now time.Time) (*Set, time.Time, error) {
	raw, err := c.open()
	if err != nil {
		return nil, time.Time{}, err
	}
	sum, rest, _ := bytes.Cut(raw, []byte("\n"))
	if string(sum) != checksum(rest) {
		return nil, time.Time{}, fmt.Errorf("%s: the checksum is wrong: it was cut off or changed", c.path)
	}
	first, set, _ := bytes.Cut(rest, []byte("\n"))
	var header copyHeader
	if err := json.Unmarshal(first, &header); err != nil {
		return nil, time.Time{}, fmt.Errorf("%s:2: %w", c.path, err)
	}
	switch {
	case header.Format != copyFormat:
		return nil, time.Time{}, fmt.Errorf("%s: the format is %.64q, not %q", c.path, header.Format, copyFormat)
	case header.ID != c.id:
		return nil, time.Time{}, fmt.Errorf("%s: it is of the issuer %.200q, or of another url", c.path, header.Issuer)
	case header.FetchedAt.After(now.Add(copyFuture)):
		return nil, time.Time{}, fmt.Errorf("%s: it is from the future: %s", c.path, header.FetchedAt.Format(time.RFC3339))
	}
	keys, err := Parse(c.path, set, false)
	if err != nil {
		return nil, time.Time{}, err
	}
	return keys, header.FetchedAt, nil
}

// open reads the file, where not everybody could have written it. A group may: Kubernetes gives one to volumes (fsGroup).
func (c *Copy) open() ([]byte, error) {
	dir, err := os.Stat(filepath.Dir(c.path))
	if err != nil {
		return nil, err
	}
	file, err := os.Lstat(c.path) // first: opening a named pipe would wait for its writer
	switch {
	case err != nil:
		return nil, err
	case !file.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", c.path)
	case (dir.Mode()|file.Mode()).Perm()&0o002 != 0:
		return nil, fmt.Errorf("%s: everybody may write to it or to its folder: chmod o-w", c.path)
	}
	f, err := os.Open(c.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxCopyBytes+1))
	if err == nil && len(raw) > maxCopyBytes {
		err = fmt.Errorf("more than %d bytes", maxCopyBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.path, err)
	}
	return raw, nil
}

// Write keeps a set that was just fetched. A crash leaves the older copy or the newer one.
func (c *Copy) Write(set *Set, fetched time.Time) error {
	if age := fetched.Sub(c.written); set.sum == c.sum && age >= 0 && age < copyInterval {
		return nil
	}
	header, err := json.Marshal(copyHeader{copyFormat, c.id, c.issuer, c.source, fetched.UTC()})
	if err != nil {
		return err
	}
	rest := append(append(header, '\n'), set.raw...)
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(c.path, append([]byte(checksum(rest)+"\n"), rest...), 0o600); err != nil {
		return err
	}
	c.sum, c.written = set.sum, fetched
	return nil
}

func checksum(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
