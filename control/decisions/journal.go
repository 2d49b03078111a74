package decisions

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gatehouse/durable"
)

// A journal is a file to which requests are appended as they came, gzip and all, and synced before they are acknowledged.
// What is in it and in no segment yet is in memory too, and read from it at the next start.
//
//	frame   length  CRC-32C                              4 bytes each, little endian: of what follows
//	        received (ns), length of the edge's id       8 bytes and 1
//	        the edge's id, the body
type journal struct {
	number uint64
	path   string
	file   *os.File
	size   int64 // of whole frames
	frame  []byte
}

const (
	journalSuffix = ".journal"
	frameHead     = 8
	maxFrame      = MaxBody + 512
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func journalPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%012d%s", number, journalSuffix))
}

// journals are the numbers of those in a folder, in order.
func journals(dir string) (list []uint64, err error) {
	names, err := os.ReadDir(dir)
	for _, n := range names {
		if base, ok := strings.CutSuffix(n.Name(), journalSuffix); ok {
			if number, err := strconv.ParseUint(base, 10, 64); err == nil {
				list = append(list, number)
			}
		}
	}
	slices.Sort(list)
	return list, err
}

func newJournal(dir string, number uint64) (*journal, error) {
	path := journalPath(dir, number)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := durable.SyncFolder(dir); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return &journal{number: number, path: path, file: f}, nil
}

// add appends a request's body. It is durable after sync.
func (j *journal) add(r *request) error {
	f := append(j.frame[:0], make([]byte, frameHead)...)
	f = binary.LittleEndian.AppendUint64(f, uint64(r.received))
	f = append(append(append(f, byte(len(r.edge))), r.edge...), r.body...)
	binary.LittleEndian.PutUint32(f, uint32(len(f)-frameHead))
	binary.LittleEndian.PutUint32(f[4:], crc32.Checksum(f[frameHead:], castagnoli))
	j.frame = f
	n, err := j.file.Write(f)
	j.size += int64(n)
	return err
}

// back takes back what was added since the file had a size.
func (j *journal) back(size int64) error {
	j.size = size
	if err := j.file.Truncate(size); err != nil {
		return err
	}
	_, err := j.file.Seek(size, io.SeekStart)
	return err
}

// errDamaged: a journal has something else than whole requests, and not only at its end.
var errDamaged = errors.New("a part of it cannot be read")

// readJournal calls use with each whole request of a journal. The last may be cut, by the end of the process that wrote it; what is
// otherwise no request is errDamaged.
func readJournal(path string, use func(edge string, received int64, body []byte) error) (whole int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 256<<10)
	head := make([]byte, frameHead)
	var frame []byte
	for {
		if _, err := io.ReadFull(in, head); err != nil {
			return whole, ends(err)
		}
		n := int(binary.LittleEndian.Uint32(head))
		if n == 0 && binary.LittleEndian.Uint32(head[4:]) == 0 {
			return whole, nil // a file system that was cut off may leave zeros
		}
		if n < 9 || n > maxFrame {
			return whole, errDamaged
		}
		frame = slices.Grow(frame[:0], n)[:n]
		if _, err := io.ReadFull(in, frame); err != nil {
			return whole, ends(err)
		}
		edge := int(frame[8])
		if crc32.Checksum(frame, castagnoli) != binary.LittleEndian.Uint32(head[4:]) || 9+edge > n {
			return whole, errDamaged
		}
		if err := use(string(frame[9:9+edge]), int64(binary.LittleEndian.Uint64(frame)), frame[9+edge:]); err != nil {
			return whole, err
		}
		whole += int64(frameHead + n)
	}
}

func ends(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
