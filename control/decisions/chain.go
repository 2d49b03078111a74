package decisions

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// ChainFile says what the segments of a folder are: a line for each change, with the hash of the line before it, signed.
const ChainFile = "segments.chain"

// Segment is a Parquet file of entries with the same outcome, sorted by time.
type Segment struct {
	File    string `json:"file"`
	Outcome string `json:"outcome"`
	Rows    int    `json:"rows"`
	Bytes   int64  `json:"bytes"`
	From    int64  `json:"from"` // time of the first entry, ns since 1970
	To      int64  `json:"to"`   // of the last
	SHA256  string `json:"sha256"`
}

// Record is one line of the chain.
type Record struct {
	Number      uint64     `json:"number"` // 1, 2, 3
	At          time.Time  `json:"at"`
	Environment string     `json:"environment"`
	By          string     `json:"by,omitempty"`      // whose token it was; "": control itself
	Add         []Segment  `json:"add,omitempty"`     // are there from now on
	Journal     uint64     `json:"journal,omitempty"` // what the journals up to this one have is in segments
	Remove      []string   `json:"remove,omitempty"`  // files that the retention ends
	Retention   *Retention `json:"retention,omitempty"`
	Hold        *Hold      `json:"hold,omitempty"`
	Release     string     `json:"release,omitempty"` // the hold of this name
	Previous    string     `json:"previous"`          // SHA-256 of the line before, in hexadecimal; "": there is none
}

// Retention says how long entries are kept, by their outcome. 0 is for ever.
type Retention struct {
	Allow time.Duration `json:"allow"`
	Deny  time.Duration `json:"deny"`
	Gap   time.Duration `json:"gap"`
}

func (r *Retention) of(outcome string) time.Duration {
	switch outcome {
	case Allow:
		return r.Allow
	case Deny:
		return r.Deny
	}
	return r.Gap
}

// Hold keeps the retention from ending segments with entries between two times; zero times are open.
type Hold struct {
	Name  string    `json:"name"`
	Why   string    `json:"why,omitempty"`
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
}

func (h *Hold) holds(s *Segment) bool {
	return (h.Since.IsZero() || s.To >= at(h.Since)) && (h.Until.IsZero() || s.From <= at(h.Until))
}

// signedLine is a record as it stands in the file.
type signedLine struct {
	Record    json.RawMessage `json:"record"`
	Signature []byte          `json:"signature"`
}

// Signer signs what must not be changed; authority is one.
type Signer interface {
	Attest(text []byte) (signature []byte, err error)
}

// signed is what the signature of a record is of.
func signed(record []byte) []byte {
	return append([]byte("gatehouse decision log, a record of "+ChainFile+"\n"), record...)
}

// chain appends to a folder's chain. It belongs to who writes to the environment.
type chain struct {
	file   *os.File
	size   int64
	number uint64
	last   string // hash of the last line
}

// readChain calls use with each record. What is behind the last whole line, as the end of a process may leave it, is not
// read.
func readChain(path string, use func(r *Record, line []byte, signature []byte, raw []byte) error) (whole int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 64<<10)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return whole, err
		}
		var l signedLine
		var r Record
		if err := json.Unmarshal(line, &l); err != nil {
			return whole, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		if err := json.Unmarshal(l.Record, &r); err != nil {
			return whole, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		if err := use(&r, bytes.TrimSuffix(line, []byte("\n")), l.Signature, l.Record); err != nil {
			return whole, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		whole += int64(len(line))
	}
}

func hashOf(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// openChain opens a folder's chain for appending, and hands its records to use.
func openChain(dir string, use func(*Record)) (*chain, error) {
	path := filepath.Join(dir, ChainFile)
	c := &chain{}
	whole, err := readChain(path, func(r *Record, line, _, _ []byte) error {
		if r.Previous != c.last || r.Number != c.number+1 {
			return errors.New("this line does not follow the one before it: gatehouse control verify-log has more")
		}
		c.last, c.number = hashOf(line), r.Number
		use(r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if c.file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	return c, c.back(whole)
}

func (c *chain) back(size int64) error {
	if err := c.file.Truncate(size); err != nil {
		return err
	}
	c.size = size
	_, err := c.file.Seek(size, io.SeekStart)
	return err
}

// add appends a record, durably.
func (c *chain) add(r *Record, by Signer) error {
	r.Number, r.Previous = c.number+1, c.last
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	signature, err := by.Attest(signed(raw))
	if err != nil {
		return err
	}
	line, err := json.Marshal(signedLine{raw, signature})
	if err != nil {
		return err
	}
	if _, err = c.file.Write(append(line, '\n')); err == nil {
		err = c.file.Sync()
	}
	if err != nil {
		return errors.Join(err, c.back(c.size))
	}
	c.size += int64(len(line)) + 1
	c.number, c.last = r.Number, hashOf(line)
	return nil
}
