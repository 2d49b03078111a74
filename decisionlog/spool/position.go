package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// File tells which file a reader writes to, and how long it is; zero where it is no regular file.
type File struct{ Dev, Ino, Size uint64 }

// Same reports whether it is the same file, of whatever length.
func (f File) Same(other File) bool { return f.Dev == other.Dev && f.Ino == other.Ino }

// FileOf is a file as the file system knows it.
func FileOf(info os.FileInfo) File {
	dev, ino := fileID(info)
	return File{dev, ino, uint64(info.Size())}
}

// place is where a reader is: everything before it in the spool is in the reader's file, which was this one then.
type place struct {
	segment, offset uint64
	file            File
}

// position keeps two places of a reader: written is how far it is, durable how far it was when its file was last synced. It is a file of two
// slots that are written in turn, each with a serial number and a CRC, so that one of them is always whole.
type position struct {
	file             *os.File
	serial           uint64
	written, durable place
	known            bool // it was read, or has been written
}

const (
	positionFile  = "position."        // and the reader's name
	positionMagic = 0x31534f5053504847 // "GHPSPOS1"
	positionSize  = 8*12 + 8
)

func openPosition(dir, name string) (*position, error) {
	f, err := os.OpenFile(filepath.Join(dir, positionFile+name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	p := &position{file: f}
	p.readAll(f)
	return p, nil
}

// readAll takes over the newer of the two slots that are whole.
func (p *position) readAll(f io.ReaderAt) {
	for slot := range int64(2) {
		var b [positionSize]byte
		if _, err := f.ReadAt(b[:], slot*512); err == nil {
			p.read(b[:])
		}
	}
}

// AdoptPosition takes over the file of the time when there was one reader, for the reader that it was. It comes before Reader.
func (sp *Spool) AdoptPosition(name string) error {
	dir := sp.dir
	old, now := filepath.Join(dir, strings.TrimSuffix(positionFile, ".")), filepath.Join(dir, positionFile+name)
	if _, err := os.Lstat(now); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(old, now); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// lastPlaced is the highest number of a segment that a reader's position speaks of, be it configured now or not.
func lastPlaced(dir string) (last uint64, err error) {
	files, err := filepath.Glob(filepath.Join(dir, strings.TrimSuffix(positionFile, ".")+"*"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return 0, err
		}
		var p position
		p.readAll(f)
		f.Close()
		last = max(last, p.written.segment, p.durable.segment)
	}
	return last, nil
}

// read takes a slot over if it is whole and newer.
func (p *position) read(b []byte) {
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	serial := word(1)
	if word(0) != positionMagic || word(12) != uint64(crc32.Checksum(b[:96], castagnoli)) || serial < p.serial {
		return
	}
	p.serial, p.known = serial, true
	p.written = place{word(2), word(3), File{word(4), word(5), word(6)}}
	p.durable = place{word(7), word(8), File{word(9), word(10), word(11)}}
}

func (p *position) save() error {
	p.serial++
	p.known = true
	w, d := p.written, p.durable
	var b []byte
	for _, v := range []uint64{positionMagic, p.serial, w.segment, w.offset, w.file.Dev, w.file.Ino, w.file.Size,
		d.segment, d.offset, d.file.Dev, d.file.Ino, d.file.Size} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(crc32.Checksum(b, castagnoli)))
	_, err := p.file.WriteAt(b, int64(p.serial%2)*512)
	return err
}
