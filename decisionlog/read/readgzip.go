package read

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// counter knows how many bytes were read. It is an io.ByteReader, so that flate reads not one byte too many.
type counter struct {
	in *bufio.Reader
	n  int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.in.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// unzip reads what gzip wrote, one member after the other. Damage is returned once, as a *DamageError; behind it the next member is looked
// for.
type unzip struct {
	file string
	in   *counter
	z    *gzip.Reader
	end  bool
}

func (u *unzip) Read(p []byte) (int, error) {
	if u.end {
		return 0, io.EOF
	}
	var err error
	if u.z == nil {
		if u.z, err = gzip.NewReader(u.in); err != nil {
			return 0, u.damaged(err)
		}
	}
	n, err := u.z.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, u.damaged(err)
}

var gzipStart = []byte{0x1f, 0x8b, 8} // with deflate, the only method there is

// damaged goes on to the next member.
func (u *unzip) damaged(err error) error {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	d := &DamageError{File: u.file, Offset: u.in.n, What: "damaged gzip: " + err.Error()}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		d.What = "the gzip ends in the middle"
	} else if !errors.Is(err, gzip.ErrHeader) && !errors.Is(err, gzip.ErrChecksum) && !corrupt {
		u.end = true
		return fmt.Errorf("reading the decision log %s: %w", u.file, err)
	}
	for {
		head, _ := u.in.in.Peek(10)
		if len(head) < 10 { // too little for a member
			u.end = true
			d.Bytes = u.in.n + int64(len(head)) - d.Offset
			return d
		}
		if bytes.HasPrefix(head, gzipStart) && head[3] < 0x20 {
			d.Bytes = u.in.n - d.Offset
			if u.z == nil || u.z.Reset(u.in) == nil {
				return d
			}
			continue
		}
		next := bytes.IndexByte(head[1:], gzipStart[0])
		if next < 0 {
			next = len(head) - 1
		}
		skipped, _ := u.in.in.Discard(next + 1)
		u.in.n += int64(skipped)
	}
}
