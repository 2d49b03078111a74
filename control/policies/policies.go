// Package policies keeps the bundles of control: it takes a tarball apart, has it checked by package judge in a process
// of its own, signs it with control's own key, and keeps it as a file that its digest names.
//
// A revision's digest is that of its files, whatever archive they came in: the same files are the same revision. What is
// served is another tarball: control names the revision in the manifest, so that decision logs do too, and adds its
// signature.
//
// It may import bundles/tarball, bundles/signature, policy/bundle and control/authority. It compiles nothing: what a
// policy's author wrote is parsed by the other process, or by this one within the limits of package bundle.
package policies

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"gatehouse/bundles/signature"
	"gatehouse/bundles/tarball"
	"gatehouse/control/authority"
	"gatehouse/durable"
	"gatehouse/policy/bundle"
)

// The files in the folder. The key is control's, and the certificate says so by its authority's signature.
const (
	Folder          = "bundles"
	keyFile         = "bundles.key"
	certificateFile = "bundles.pem"
	manifestFile    = ".manifest"
	ending          = ".tar.gz"

	// Name is what every bundle of control is called in problems.
	Name = "bundle"
	// KeyID names control's key in signatures.
	KeyID = "control"
	// Algorithm is that of control's signatures.
	Algorithm = "ES256"

	// MaxTarball bounds the tarball that is pushed, in bytes; what is in it is bounded by limits.
	MaxTarball = 32 << 20
)

// Limits bound a bundle at control. They are those of an edge, or less.
func Limits() bundle.Limits { return bundle.Limits{Total: 64 << 20} }

// Store is the folder of bundles.
type Store struct {
	dir string
	key signature.Key
	pem []byte // the certificate of the key, with that of the authority

	parsing sync.Mutex // held while data of a bundle is parsed: what somebody pushed takes many times its size in memory
}

// Open opens a folder, and makes the key and its certificate where they are missing.
func Open(dir string, a *authority.Authority) (*Store, error) {
	s := &Store{dir: filepath.Join(dir, Folder), key: signature.Key{ID: KeyID, File: filepath.Join(dir, keyFile), Algorithm: Algorithm}}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // what a crash has left
		if strings.HasSuffix(e.Name(), durable.Ending) {
			os.Remove(filepath.Join(s.dir, e.Name()))
		}
	}
	s.pem, err = a.BundleSigner(filepath.Join(dir, keyFile), filepath.Join(dir, certificateFile))
	return s, err
}

// Certificate is that of the key that bundles are signed with, and its authority's, PEM.
func (s *Store) Certificate() []byte { return s.pem }

// Unpack takes a tarball apart, without a signature that it carries: control signs what it has checked itself.
func Unpack(raw []byte) (map[string][]byte, error) {
	files, _, err := tarball.Unpack(Name, bytes.NewReader(raw), Limits())
	if err != nil {
		return nil, err
	}
	delete(files, signature.File)
	if _, delta := files[bundle.DeltaFile]; delta {
		return nil, bundle.Problems{{Stage: "reading", Bundle: Name, File: bundle.DeltaFile, Text: "this is a delta: push the whole bundle"}}
	}
	return files, nil
}

// Digest names a bundle by its files. The revision in its manifest is none of them: control sets it.
func Digest(files map[string][]byte) (string, error) {
	named, err := withRevision(files, "")
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if err := tarball.Pack(sum, named); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// shown is how many digits of a digest the manifest has as its revision.
const shown = 12

// withRevision is a bundle with a revision in its manifest; "": with none.
func withRevision(files map[string][]byte, revision string) (map[string][]byte, error) {
	manifest := map[string]json.RawMessage{}
	if text, ok := files[manifestFile]; ok {
		if err := json.Unmarshal(text, &manifest); err != nil {
			return nil, bundle.Problems{{Stage: "reading", Bundle: Name, File: manifestFile, Text: "this is no JSON object: " + err.Error()}}
		}
	}
	delete(manifest, "revision")
	if revision != "" {
		manifest["revision"], _ = json.Marshal(revision) // a string
	}
	files = maps.Clone(files)
	if delete(files, manifestFile); len(manifest) > 0 {
		text, err := json.Marshal(manifest)
		if err != nil {
			return nil, err
		}
		files[manifestFile] = text
	}
	return files, nil
}

// Put signs a bundle and writes it to disk. archive is the SHA-256 of the file.
func (s *Store) Put(files map[string][]byte, digest string) (archive string, size int64, err error) {
	files, err = withRevision(files, digest[:shown])
	if err != nil {
		return "", 0, err
	}
	s.parsing.Lock()
	defer s.parsing.Unlock()
	if files[signature.File], err = signature.Sign(files, s.key); err != nil {
		return "", 0, err
	}
	var packed bytes.Buffer
	if err := tarball.Pack(&packed, files); err != nil {
		return "", 0, err
	}
	sum := sha256.Sum256(packed.Bytes())
	archive = hex.EncodeToString(sum[:])
	if err := durable.WriteFile(s.path(archive), packed.Bytes(), 0o600); err != nil {
		return "", 0, err
	}
	return archive, int64(packed.Len()), nil
}

// Remove removes a tarball that is not used: its revision was there already.
func (s *Store) Remove(archive string) { os.Remove(s.path(archive)) }

func (s *Store) path(archive string) string { return filepath.Join(s.dir, archive+ending) }

// ErrDamaged is a tarball that is not the one that its name says, or is gone.
var ErrDamaged = errors.New("the bundle's file is damaged or gone: put control's folder back from a copy, or push the bundle again")

// Read reads a tarball from disk. It is the one that its name says.
func (s *Store) Read(archive string) ([]byte, error) {
	text, err := os.ReadFile(s.path(archive))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", archive, ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != archive {
		return nil, fmt.Errorf("%s: %w", archive, ErrDamaged)
	}
	return text, nil
}

// Open is the bundle in a tarball of the store.
func (s *Store) Open(archive string) (*bundle.Bundle, map[string][]byte, error) {
	raw, err := s.Read(archive)
	if err != nil {
		return nil, nil, err
	}
	files, err := Unpack(raw)
	if err != nil {
		return nil, nil, err
	}
	s.parsing.Lock()
	defer s.parsing.Unlock()
	b, err := bundle.Read(Name, tarball.Tree(files), Limits())
	return b, files, err
}

// Job is what the judge is given, as JSON on its standard input.
type Job struct {
	Files    map[string][]byte `json:"files"`
	Decision string            `json:"decision"`
	Smoke    []Table           `json:"smoke"`
	Tests    int               `json:"tests_seconds"` // for all of the bundle's own tests
}

// Table is a table of requests, in the format of gatehouse test.
type Table struct {
	Name string `json:"name"`
	Text []byte `json:"text"`
}

// Verdict is what the judge says, as JSON on its standard output.
type Verdict struct {
	Problems bundle.Problems `json:"problems"` // none: the bundle is good
	Notices  []string        `json:"notices"`
	Rules    int             `json:"rules"`
	Tests    int             `json:"tests"`
	Smoke    int             `json:"smoke"`
}

// Check has a bundle checked. A bundle that is not good is an error of the kind bundle.Problems.
func (c *Checker) Check(ctx context.Context, job Job) (*Verdict, error) {
	v, err := c.run(ctx, job)
	if err == nil && len(v.Problems) > 0 {
		err = v.Problems
	}
	return v, err
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	bytes.Buffer
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.most - b.Len(); room < len(p) {
		b.Buffer.Write(p[:max(0, room)]) // cannot fail
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

var _ io.Writer = (*bounded)(nil)
