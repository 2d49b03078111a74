package decisions

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Verified is what Verify found in one environment's folder.
type Verified struct {
	Environment string    `json:"environment"`
	Records     uint64    `json:"records"`
	Segments    int       `json:"segments"`
	Entries     int       `json:"entries"`
	Removed     int       `json:"removed"` // segments that reached the end of their retention
	From        time.Time `json:"from,omitzero"`
	To          time.Time `json:"to,omitzero"`
	Head        string    `json:"head,omitempty"` // hash of the last record: whoever keeps it can tell whether the end was cut
	HeadAt      time.Time `json:"head_at,omitzero"`
	Problems    []string  `json:"problems,omitempty"`
}

// maxProblems bounds what is told of one environment.
const maxProblems = 100

func (v *Verified) wrong(format string, args ...any) {
	if len(v.Problems) < maxProblems {
		v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
	}
}

// Verify checks all folders of a store: that each chain is whole and signed, and each segment what the chain says. attested tells whether a
// signature is control's. has are hashes that were kept elsewhere: each is to be a record of some chain.
func Verify(dir string, attested func(text, signature []byte) (bool, error), has []string) (list []*Verified, err error) {
	projects, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	missing := slices.Clone(has)
	for _, project := range projects {
		if !project.IsDir() {
			continue
		}
		names, err := os.ReadDir(filepath.Join(dir, project.Name()))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if !name.IsDir() {
				continue
			}
			v := &Verified{Environment: project.Name() + "/" + name.Name()}
			if err := v.verify(filepath.Join(dir, project.Name(), name.Name()), attested, &missing); err != nil {
				return nil, err
			}
			list = append(list, v)
		}
	}
	if len(missing) > 0 {
		list = append(list, &Verified{Environment: "all", Problems: []string{"no chain has the record " + strings.Join(missing, ", ")}})
	}
	return list, nil
}

func (v *Verified) verify(dir string, attested func(text, signature []byte) (bool, error), missing *[]string) error {
	there, last := map[string]Segment{}, ""
	whole, err := readChain(filepath.Join(dir, ChainFile), func(r *Record, line, signature, raw []byte) error {
		ok, err := attested(signed(raw), signature)
		if err != nil {
			return err
		}
		v.Records++
		switch {
		case !ok:
			v.wrong("record %d: it is not signed by control", v.Records)
		case r.Previous != last || r.Number != v.Records:
			v.wrong("record %d: it does not follow the one before it: records are missing, or in another order", v.Records)
		case r.Environment != v.Environment:
			v.wrong("record %d: it is of %s", v.Records, r.Environment)
		}
		last = hashOf(line)
		*missing = slices.DeleteFunc(*missing, func(h string) bool { return h == last })
		for _, s := range r.Add {
			if _, twice := there[s.File]; twice || s.File != filepath.Base(s.File) {
				v.wrong("record %d: segment %q", v.Records, s.File)
				continue
			}
			there[s.File] = s
		}
		for _, file := range r.Remove {
			if _, ok := there[file]; !ok {
				v.wrong("record %d: it ends %q, which is not there", v.Records, file)
			}
			delete(there, file)
			v.Removed++
		}
		v.Head, v.HeadAt = last, r.At
		return nil
	})
	if err != nil {
		v.wrong("%v", err)
		return nil
	}
	if info, err := os.Stat(filepath.Join(dir, ChainFile)); err == nil && info.Size() != whole {
		v.wrong("behind record %d there are %d bytes that are no record: control was ended while it wrote one, or they were put there", v.Records, info.Size()-whole)
	}
	for _, s := range there {
		if err := v.segment(dir, &s); err != nil {
			return err
		}
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, ok := there[n.Name()]; !ok && strings.HasSuffix(n.Name(), segmentSuffix) {
			v.wrong("%s: the chain does not name it; it does not count", n.Name())
		}
	}
	slices.Sort(v.Problems)
	return nil
}

func (v *Verified) segment(dir string, s *Segment) error {
	v.Segments++
	v.Entries += s.Rows
	from, to := time.Unix(0, s.From).UTC(), time.Unix(0, s.To).UTC()
	if v.From.IsZero() || from.Before(v.From) {
		v.From = from
	}
	if to.After(v.To) {
		v.To = to
	}
	f, err := os.Open(filepath.Join(dir, s.File))
	if errors.Is(err, fs.ErrNotExist) {
		v.wrong("%s: it is missing, with %d decisions from %s to %s", s.File, s.Rows, from.Format(time.RFC3339), to.Format(time.RFC3339))
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != s.SHA256 || n != s.Bytes {
		v.wrong("%s: it was changed: its SHA-256 is %s, and the chain says %s", s.File, got, s.SHA256)
	}
	return nil
}
