package bundles

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"gatehouse/bundles/tarball"
	"gatehouse/durable"
	"gatehouse/policy/bundle"
)

// rawBundle is a bundle as it arrived: its tarball and the deltas applied to it. The bundle can be made from it again, and is then checked like
// a new one, by the current configuration: nothing compiled is reused across a change of the rules. It is immutable.
type rawBundle struct {
	parts   []*blob
	archive string // SHA-256 of the tarball that it came in
}

// blob is one tarball, in memory or on disk.
type blob struct {
	mu    sync.Mutex        // guards what is below
	files map[string][]byte // what data is packed from; nil once it is
	data  []byte            // nil: in file
	sum   string            // SHA-256 of data in hexadecimal; empty until it is packed
	file  string            // empty: not on disk
	open  *os.File          // file, held open so that it survives removal
}

const copyEnding = ".tar.gz"

// copyOf returns the copy of a tarball.
func copyOf(raw []byte, archive string) *rawBundle {
	return &rawBundle{parts: []*blob{{data: raw}}, archive: archive}
}

// copyOfFiles returns the copy of a directory. Files whose content was not read are left out.
func copyOfFiles(files map[string][]byte) *rawBundle {
	files = maps.Clone(files)
	maps.DeleteFunc(files, func(_ string, content []byte) bool { return content == nil })
	return &rawBundle{parts: []*blob{{files: files}}}
}

// with returns the copy with a delta appended.
func (c *rawBundle) with(delta []byte) *rawBundle {
	if c == nil {
		return nil
	}
	return &rawBundle{parts: append(slices.Clip(c.parts), &blob{data: delta})}
}

// same reports whether two bundles arrived as the same data.
func (c *rawBundle) same(other *rawBundle) bool {
	return slices.EqualFunc(c.parts, other.parts, func(a, b *blob) bool {
		sum := a.name()
		return sum != "" && sum == b.packed()
	})
}

// packed returns the blob's file name on disk.
func (b *blob) packed() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pack() != nil {
		return ""
	}
	return b.sum
}

// pack sets data and sum. The caller holds mu.
func (b *blob) pack() error {
	if b.sum != "" {
		return nil
	}
	gzipped := bytes.HasPrefix(b.data, []byte{0x1f, 0x8b})
	if !gzipped {
		files := b.files
		if files == nil {
			var err error
			if files, _, err = tarball.Unpack("", bytes.NewReader(b.data), bundle.Limits{Files: 1 << 30, File: 1 << 40, Total: 1 << 40, Depth: 1 << 20}); err != nil {
				return err
			}
		}
		var packed bytes.Buffer
		if err := tarball.Pack(&packed, files); err != nil {
			return err
		}
		b.data = bytes.Clone(packed.Bytes()) // trims the buffer's spare capacity
	}
	sum := sha256.Sum256(b.data)
	b.files, b.sum = nil, hex.EncodeToString(sum[:])
	return nil
}

// store packs the copy and, if there is a directory, writes it there and frees the memory.
func (c *rawBundle) store(dir string) error {
	for _, b := range c.parts {
		if err := b.store(dir); err != nil {
			return err
		}
	}
	return nil
}

func (b *blob) store(dir string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file != "" && filepath.Dir(b.file) == dir && b.exists() {
		return nil
	}
	if b.data == nil && b.files == nil { // it is in the previous configuration's directory, or was removed
		data, err := b.load()
		if err != nil {
			return err
		}
		b.data = data
	}
	if err := b.pack(); err != nil {
		return err
	}
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s := &store{dir: dir, name: b.sum}
	if _, err := os.Stat(s.file(copyEnding)); err != nil || !b.sameOnDisk(s.file(copyEnding)) {
		if err := durable.WriteFile(s.file(copyEnding), b.data, 0o600); err != nil {
			return err
		}
	}
	b.file, b.data = s.file(copyEnding), nil
	return nil
}

// exists reports whether the file still exists under its name. The caller holds mu.
func (b *blob) exists() bool {
	_, err := os.Lstat(b.file)
	return !errors.Is(err, fs.ErrNotExist)
}

// hold keeps the file open, or closes it: an open file can be written again after its directory was removed.
func (b *blob) hold(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open != nil && (!on || b.open.Name() != b.file) {
		b.open.Close()
		b.open = nil
	}
	if on && b.open == nil && b.file != "" {
		b.open, _ = os.Open(b.file) // if it cannot be opened, a later removal loses it and is reported then
	}
}

// sameOnDisk reports whether a file already has the contents.
func (b *blob) sameOnDisk(file string) bool {
	on, err := os.ReadFile(file)
	return err == nil && bytes.Equal(on, b.data)
}

// load returns the data, from the file if necessary. The caller holds mu.
func (b *blob) load() ([]byte, error) {
	if b.file == "" {
		return nil, errors.New("its copy was not kept")
	}
	data, err := readLimited(b.file, bundle.Limits{Total: maxCopy})
	if err != nil && b.open != nil {
		data, err = io.ReadAll(io.NewSectionReader(b.open, 0, maxCopy))
	}
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != b.sum {
		return nil, fmt.Errorf("%s: %w", b.file, errDamaged)
	}
	return data, nil
}

// maxCopy bounds a copy's file. Its unpacked contents are checked against the bundle limits.
const maxCopy = 1 << 30

func (b *blob) raw() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.data == nil && b.files == nil {
		return b.load()
	}
	if err := b.pack(); err != nil {
		return nil, err
	}
	return b.data, nil
}

// name returns the file's name, "" if there is none.
func (b *blob) name() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == "" {
		return ""
	}
	return b.sum
}

// delivery returns the copy as a delivery, to be checked like a new one.
func (c *rawBundle) delivery(name string, limits bundle.Limits) (d delivery, err error) {
	problem := func(err error) (delivery, error) {
		if _, ok := errors.AsType[bundle.Problems](err); ok {
			return delivery{}, err
		}
		return delivery{}, bundle.Problems{{Stage: stageReading, Bundle: name, Text: "the copy of it: " + err.Error()}}
	}
	if c == nil || len(c.parts) == 0 {
		return problem(errors.New("none was kept"))
	}
	for i, b := range c.parts {
		raw, err := b.raw()
		if err != nil {
			return problem(err)
		}
		files, _, err := tarball.Unpack(name, bytes.NewReader(raw), limits)
		if err != nil {
			return problem(err)
		}
		if i == 0 {
			d = delivery{files: files, archive: c.archive, copy: c}
			continue
		}
		if err := d.patch(name, files, limits); err != nil {
			return problem(err)
		}
	}
	return d, nil
}

// patch applies a delta to the delivery.
func (d *delivery) patch(name string, delta map[string][]byte, limits bundle.Limits) (err error) {
	if d.bundle == nil {
		if d.bundle, err = bundle.Read(name, tarball.Tree(d.files), limits); err != nil {
			return err
		}
		d.parts = []archivePart{wholePart(d.bundle.Digest(), d.files)}
		without := map[string][]byte{}
		for file, content := range d.files {
			if isData(file) {
				d.data += int64(len(content))
			} else {
				without[file] = content
			}
		}
		d.files = without
	}
	before := d.bundle.Digest()
	if d.bundle, err = d.bundle.Patch(delta[manifestFile], delta[bundle.DeltaFile]); err != nil {
		return err
	}
	d.parts = append(d.parts, archivePart{digest: d.bundle.Digest(), before: before, files: delta})
	d.data += int64(len(delta[bundle.DeltaFile]))
	return nil
}

func isData(file string) bool {
	switch file[strings.LastIndexByte(file, '/')+1:] {
	case "data.json", "data.yaml", "data.yml":
		return true
	}
	return false
}

// filesKey is a hash of all files: equal keys mean the same bundle, including tests and signature.
func filesKey(files map[string][]byte) string {
	sum := sha256.New()
	var length [8]byte
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, part := range [][]byte{[]byte(name), files[name]} {
			binary.BigEndian.PutUint64(length[:], uint64(len(part)))
			sum.Write(length[:])
			sum.Write(part)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// pruneCopies removes unreferenced files, and partly written ones left by a crash.
func pruneCopies(dir string, used map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		sum := strings.TrimSuffix(strings.TrimSuffix(e.Name(), durable.Ending), copyEnding)
		if isDigest(sum) && !(used[sum] && e.Name() == sum+copyEnding) {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, err)...)
}
