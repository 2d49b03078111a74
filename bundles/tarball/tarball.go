// Package tarball reads and writes bundles as tar archives, in memory. It owns what such an archive may hold: no links, no names with "..",
// no trailing data. It is a part of package bundles, and imports policy for limits and the form of errors.
package tarball

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gatehouse/policy/bundle"
)

const (
	maxNameLength = 1024 // bytes of a file's path within an archive
	tarBlock      = 512  // bytes; an archive ends with two zero blocks
)

// Unpack reads a whole bundle tarball, gzipped or plain, into memory: the files by their slash-separated paths below the bundle's top, and
// the SHA-256 of the tarball's bytes in hexadecimal. Nothing is written to disk.
//
// Only files and folders are allowed; links and devices are refused, as are names that are duplicate, contain "..", are not printable, or
// are longer or deeper than allowed. A leading "./" is accepted because tar writes it, a single leading slash because OPA does; both stand
// for the bundle's top. Every byte is accounted for: a tarball that is truncated, lacks its end, or has trailing data is refused, because
// part of a policy may allow what the whole denies.
//
// The limits apply to the files, and bound what is read and decompressed whatever the compression ratio. Errors are bundle.Problems with the
// bundle's name.
func Unpack(name string, r io.Reader, limits bundle.Limits) (files map[string][]byte, digest string, err error) {
	u := newUnpacker(r, limits.OrDefault())
	if err := u.read(); err != nil {
		return nil, "", bundle.Problems{Problem(name, err)}
	}
	return u.files, hex.EncodeToString(u.digest.Sum(nil)), nil
}

type unpacker struct {
	limits  bundle.Limits
	raw     *bounded // the tarball's bytes
	content *bounded // the decompressed tar archive
	digest  hash.Hash
	files   map[string][]byte
	folders map[string]bool
	entries int
	total   int64
}

func newUnpacker(r io.Reader, limits bundle.Limits) *unpacker {
	// Headers, padding and long names add to the size of the files.
	most := limits.Total + int64(limits.Files)*(2*maxNameLength+3*tarBlock) + 1<<20
	u := &unpacker{limits: limits, digest: sha256.New(), files: map[string][]byte{}, folders: map[string]bool{}}
	u.raw = &bounded{from: io.TeeReader(r, u.digest), left: most, err: fmt.Errorf("the archive is larger than %d bytes", most)}
	u.content = &bounded{left: most, err: fmt.Errorf("the archive unpacks to more than %d bytes", most)}
	return u
}

// bounded reads up to a number of bytes and fails beyond it.
type bounded struct {
	from io.Reader
	left int64
	read int64
	err  error
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.from.Read(p)
	b.left -= int64(n)
	b.read += int64(n)
	if b.left < 0 {
		return 0, b.err
	}
	return n, err
}

func (u *unpacker) read() error {
	buffered := bufio.NewReader(u.raw)
	magic, _ := buffered.Peek(2) // a shorter file is no archive in any case
	u.content.from = buffered
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		zipped, err := gzip.NewReader(buffered)
		if err != nil {
			return u.broken(err)
		}
		u.content.from = zipped
	}
	archive := tar.NewReader(u.content)
	for {
		at := u.content.read
		header, err := archive.Next()
		if err == io.EOF {
			return u.end(u.content.read - at)
		}
		if err != nil {
			return u.broken(err)
		}
		if err := u.entry(header, archive); err != nil {
			return err
		}
	}
}

// broken turns a decoder's error into a problem with the tarball.
func (u *unpacker) broken(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return errors.New("the archive is cut off")
	case errors.Is(err, gzip.ErrChecksum):
		return errors.New("the archive is damaged: its checksum does not match")
	case errors.Is(err, gzip.ErrHeader):
		return errors.New("the archive is not gzip from its beginning to its end")
	case errors.Is(err, tar.ErrHeader) && len(u.files) == 0:
		return errors.New("not a bundle: a tar archive, gzipped or plain, is expected")
	case errors.Is(err, tar.ErrHeader):
		return errors.New("the archive is damaged: what follows its last file is no tar header")
	}
	return err
}

// end checks what follows the last file: the end mark, of which at least two blocks were just read, then zeros only. Without it a plain tar
// file that was truncated between two files would look complete.
func (u *unpacker) end(mark int64) error {
	if mark < 2*tarBlock {
		return errors.New("the archive is cut off: it has no end mark")
	}
	block := make([]byte, 32<<10)
	for {
		n, err := u.content.Read(block)
		if len(bytes.Trim(block[:n], "\x00")) > 0 {
			return errors.New("something follows the archive's end")
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return u.broken(err)
		}
	}
	if len(u.files) == 0 {
		return errors.New("the archive holds no file")
	}
	return nil
}

// entry adds one file or folder.
func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	if u.entries++; u.entries > u.limits.Files {
		return fmt.Errorf("more than %d files and folders", u.limits.Files)
	}
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil // a global header: git archive writes the commit there
	}
	name, err := u.name(header.Name)
	if err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return u.folder(name)
	case tar.TypeReg:
		return u.file(name, header.Size, content)
	case tar.TypeSymlink, tar.TypeLink:
		return FileError(name, "a link; an archive may hold files and folders only")
	}
	return FileError(name, "neither a file nor a folder")
}

// name returns an entry's path below the bundle's top; "" for the top itself.
func (u *unpacker) name(raw string) (string, error) {
	if len(raw) > maxNameLength {
		return "", fmt.Errorf("the file name %.50q... is longer than %d bytes", raw, maxNameLength)
	}
	if !utf8.ValidString(raw) || strings.ContainsFunc(raw, unicode.IsControl) {
		return "", fmt.Errorf("the file name %q is not printable text", raw)
	}
	name := raw
	for strings.HasPrefix(name, "./") {
		name = name[2:]
	}
	if name == raw {
		name = strings.TrimPrefix(name, "/")
	}
	name = strings.TrimSuffix(name, "/")
	if name == "" || name == "." {
		return "", nil
	}
	if !fs.ValidPath(name) || strings.Contains(name, `\`) {
		return "", fmt.Errorf("the file name %q is not a plain path below the top of the bundle", raw)
	}
	if strings.Count(name, "/") > u.limits.Depth {
		return "", FileError(name, fmt.Sprintf("more than %d folders deep", u.limits.Depth))
	}
	return name, nil
}

// folder records a folder and its parents, none of which may be a file too.
func (u *unpacker) folder(name string) error {
	for _, dir := range prefixes(name) {
		if _, taken := u.files[dir]; taken {
			return FileError(dir, "both a file and a folder")
		}
		u.folders[dir] = true
	}
	return nil
}

// prefixes returns a path and its parent folders.
func prefixes(name string) []string {
	var list []string
	for i, c := range name {
		if c == '/' {
			list = append(list, name[:i])
		}
	}
	return append(list, name)
}

func (u *unpacker) file(name string, size int64, content io.Reader) error {
	switch _, twice := u.files[name]; {
	case name == "":
		return errors.New("a file has no name")
	case twice:
		return FileError(name, "there twice")
	case u.folders[name]:
		return FileError(name, "both a file and a folder")
	case size > u.limits.File:
		return FileError(name, fmt.Sprintf("larger than %d bytes", u.limits.File))
	}
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		if err := u.folder(name[:i]); err != nil {
			return err
		}
	}
	if u.total += size; u.total > u.limits.Total {
		return FileError(name, fmt.Sprintf("all files together are larger than %d bytes", u.limits.Total))
	}
	// The size is only what the archive claims; memory is allocated as bytes arrive.
	data := bytes.NewBuffer(make([]byte, 0, min(size, 1<<20)+bytes.MinRead))
	if _, err := data.ReadFrom(content); err != nil {
		return u.broken(err)
	}
	u.files[name] = data.Bytes()
	return nil
}

// Pack writes files as a gzipped tarball, sorted by name, without times and owners, so that the same files give the same bytes.
func Pack(to io.Writer, files map[string][]byte) error {
	zipped, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
	if err != nil {
		return err
	}
	w := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content := files[name]
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		for piece := range slices.Chunk(content, 256<<10) {
			if _, err := w.Write(piece); err != nil {
				return err
			}
			runtime.Gosched() // yields to requests between pieces
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return zipped.Close()
}

// Problem converts a file system error to a bundle problem.
func Problem(name string, err error) bundle.Problem {
	p := bundle.Problem{Stage: "reading", Bundle: name, Text: err.Error()}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) && !filepath.IsAbs(pathErr.Path) {
		p.File, p.Text = filepath.ToSlash(pathErr.Path), pathErr.Err.Error()
	}
	return p
}

// FileError returns an error about one file.
func FileError(name, text string) error {
	return &fs.PathError{Op: "read", Path: name, Err: errors.New(text)}
}
