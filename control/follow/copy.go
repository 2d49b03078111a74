package follow

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"gatehouse/control/api"
	"gatehouse/control/wire"
	"gatehouse/directory"
	"gatehouse/durable"
)

// ownCopy is the directory on the edge's disk: a snapshot and a tail of changes since, each a numbered generation.
//
//	7.snapshot  directory.WriteTo
//	7.tail      frames: length (4), CRC-32C (4), payload. The first one is an api.Snapshot, the others are api.Changes
//
// A generation is there when its tail is, which is written after its snapshot. A frame that is not whole at the end was
// never acknowledged to control.
type ownCopy struct {
	dir    string
	logger *zap.Logger

	lock       *os.File // held by who writes; nil: this process does not
	generation int
	tail       *os.File // nil: the copy must be written as a whole
	found      int64    // the part of the tail that load used; 0: the copy must be written as a whole
	size       int64    // of the tail
	whole      int64    // of the snapshot
	epoch      string
}

const (
	copyFolder   = "directory"
	snapshotEnds = ".snapshot"
	tailEnds     = ".tail"
	incoming     = "incoming"
	lockFile     = "lock"
	frameHead    = 8
	smallestTail = 4 << 20 // a tail that is smaller is never replaced
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTail: the tail has a frame that is damaged, and others after it.
var errTail = errors.New("a part of the copy is damaged, and the directory is older than it was")

func appendFrame(to []byte, m proto.Message) ([]byte, error) {
	payload, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	to = binary.LittleEndian.AppendUint32(to, uint32(len(payload)))
	to = binary.LittleEndian.AppendUint32(to, crc32.Checksum(payload, castagnoli))
	return append(to, payload...), nil
}

// nextFrame takes the first frame off b; false where there is no whole one.
func nextFrame(b []byte) (payload, rest []byte, ok bool) {
	if len(b) < frameHead {
		return nil, b, false
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > 2*wire.MaxMessage || n > uint64(len(b)-frameHead) {
		return nil, b, false
	}
	payload = b[frameHead : frameHead+n]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, b, false
	}
	return payload, b[frameHead+n:], true
}

func (c *ownCopy) path(generation int, ends string) string {
	return filepath.Join(c.dir, strconv.Itoa(generation)+ends)
}

// generations are the numbers of the tails in the folder, the newest first.
func (c *ownCopy) generations() (list []int, err error) {
	entries, err := os.ReadDir(c.dir)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), tailEnds)
		if n, err := strconv.Atoi(name); ok && err == nil && n > 0 {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	slices.Reverse(list)
	return list, err
}

// load reads the newest generation that can be read. A nil snapshot means that there is none. With one, an error says
// that it is not all that was there.
func (c *ownCopy) load(limits directory.Limits) (*directory.Snapshot, string, error) {
	list, err := c.generations()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	var problems error
	for _, n := range list {
		c.generation = max(c.generation, n)
		s, good, whole, err := c.read(n, limits)
		if s == nil {
			problems = errors.Join(problems, fmt.Errorf("%s: %w", c.path(n, tailEnds), err))
			continue
		}
		if problems = errors.Join(problems, err); problems == nil {
			c.found, c.whole = good, whole
		}
		return s, c.epoch, problems
	}
	return nil, "", problems
}

// errLocked: while one process ends and the next one starts, both may be there.
var errLocked = errors.New("another process writes the copy")

// begin makes this process the one that writes, and goes on with the tail that load used. An unfinished frame at its
// end is cut off.
func (c *ownCopy) begin() error {
	if c.lock != nil {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(c.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // has no lock
		return errLocked
	}
	c.lock = f
	list, err := c.generations()
	if err != nil {
		return err
	}
	found := c.found
	c.found = 0
	if len(list) > 0 && list[0] != c.generation { // the other process wrote since
		c.generation = list[0]
		return nil
	}
	if found == 0 {
		return nil
	}
	tail, err := os.OpenFile(c.path(c.generation, tailEnds), os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if text, err := io.ReadAll(tail); err != nil || int64(len(text)) < found {
		_ = tail.Close() // the copy is written as a whole
		return err
	} else if _, _, more := nextFrame(text[found:]); more { // the other process wrote since
		_ = tail.Close()
		return nil
	}
	if err := tail.Truncate(found); err != nil {
		_ = tail.Close()
		return err
	}
	c.tail, c.size = tail, found
	return nil
}

// read reads a generation. good is the length of the part of the tail that counts.
func (c *ownCopy) read(n int, limits directory.Limits) (s *directory.Snapshot, good, whole int64, err error) {
	text, err := os.ReadFile(c.path(n, tailEnds))
	if err != nil {
		return nil, 0, 0, err
	}
	payload, rest, ok := nextFrame(text)
	var head api.Snapshot
	if !ok || proto.Unmarshal(payload, &head) != nil {
		return nil, 0, 0, errors.New("its head is damaged")
	}
	info, err := os.Stat(c.path(n, snapshotEnds))
	if err != nil {
		return nil, 0, 0, err
	}
	if s, err = readSnapshot(c.path(n, snapshotEnds), limits); err != nil {
		return nil, 0, 0, err
	}
	if s = s.WithRevision(head.GetRevision()); s.Digest() != hex.EncodeToString(head.GetDigest()) {
		return nil, 0, 0, errors.New("the snapshot is not the one that belongs to it")
	}
	c.epoch = head.GetEpoch()
	for len(rest) > 0 {
		payload, more, ok := nextFrame(rest)
		if !ok {
			if follows(rest) {
				err = errTail
			}
			break
		}
		var m api.Changes
		err := proto.Unmarshal(payload, &m)
		next := s
		if err == nil {
			next, err = applied(s, &m)
		}
		if err != nil || m.GetFrom() != s.Revision() || m.GetEpoch() != c.epoch {
			return s, int64(len(text) - len(rest)), info.Size(), errors.Join(errTail, err)
		}
		s, rest = next, more
	}
	return s, int64(len(text) - len(rest)), info.Size(), err
}

// follows reports whether all bytes of a frame are there, although their checksum is not theirs: then it is damaged, and
// not only unfinished.
func follows(b []byte) bool {
	if len(b) < frameHead {
		return false
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	return n <= 2*wire.MaxMessage && uint64(len(b)-frameHead) >= n
}

// applied is the directory after changes. Their digest must be its own.
func applied(s *directory.Snapshot, m *api.Changes) (*directory.Snapshot, error) {
	next, err := wire.Apply(s, m.GetOps())
	if err != nil {
		return nil, err
	}
	if next.Digest() != hex.EncodeToString(m.GetDigest()) {
		return nil, fmt.Errorf("after revision %d the directory has the digest %s, and control says %x", m.GetTo(), next.Digest(), m.GetDigest())
	}
	return next.WithRevision(m.GetTo()), nil
}

func readSnapshot(path string, limits directory.Limits) (*directory.Snapshot, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := directory.Read(bufio.NewReaderSize(f, 1<<20), limits)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return s, nil
}

// add appends changes that led to next.
func (c *ownCopy) add(m *api.Changes, next *directory.Snapshot) error {
	if err := c.begin(); err != nil {
		return err
	}
	if c.tail == nil || c.size > max(smallestTail, c.whole/2) {
		return c.rewrite(next, m.GetEpoch())
	}
	frame, err := appendFrame(nil, m)
	if err == nil {
		_, err = c.tail.Write(frame)
	}
	if err == nil {
		err = c.tail.Sync()
	}
	if err != nil {
		c.closeTail()
		return err
	}
	c.size += int64(len(frame))
	return nil
}

// rewrite writes the directory as a whole.
func (c *ownCopy) rewrite(s *directory.Snapshot, epoch string) error {
	if err := c.begin(); err != nil {
		return err
	}
	file := filepath.Join(c.dir, incoming)
	if err := durable.Write(file, 0o600, func(w io.Writer) error { _, err := s.WriteTo(w); return err }); err != nil {
		return err
	}
	digest, err := hex.DecodeString(s.Digest())
	if err != nil {
		return err
	}
	return c.replace(&api.Snapshot{Epoch: epoch, Revision: s.Revision(), Digest: digest}, file)
}

// replace makes a file in the folder, which is on the disk, the snapshot of a new generation.
func (c *ownCopy) replace(head *api.Snapshot, file string) error {
	if err := c.begin(); err != nil {
		return err
	}
	c.closeTail()
	c.generation++
	n := c.generation
	if err := os.Rename(file, c.path(n, snapshotEnds)); err != nil {
		return err
	}
	info, err := os.Stat(c.path(n, snapshotEnds))
	if err != nil {
		return err
	}
	frame, err := appendFrame(nil, head)
	if err != nil {
		return err
	}
	if err := durable.SyncFolder(c.dir); err != nil {
		return err
	}
	if err := durable.WriteFile(c.path(n, tailEnds), frame, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(c.path(n, tailEnds), os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	c.tail, c.size, c.whole, c.epoch = f, int64(len(frame)), info.Size(), head.GetEpoch()
	c.clean()
	return nil
}

// clean removes earlier generations.
func (c *ownCopy) clean() {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		c.logger.Warn("removing earlier copies of the directory", zap.Error(err))
	}
	for _, e := range entries {
		if name := e.Name(); name != filepath.Base(c.path(c.generation, snapshotEnds)) && name != filepath.Base(c.path(c.generation, tailEnds)) && name != lockFile {
			os.Remove(filepath.Join(c.dir, name))
		}
	}
}

// close lets another process write, or the next Run. What was added is on the disk.
func (c *ownCopy) close() {
	if c.tail != nil {
		c.found = c.size
	}
	c.closeTail()
	if c.lock != nil {
		_ = c.lock.Close()
		c.lock = nil
	}
}

func (c *ownCopy) closeTail() {
	if c.tail != nil {
		_ = c.tail.Close()
		c.tail = nil
	}
}

const confirmedFile = "confirmed"

// readConfirmed is when control last confirmed the directory on disk. A time that cannot be read is long ago.
func (f *Follower) readConfirmed() time.Time {
	text, err := os.ReadFile(filepath.Join(f.with.Dir, confirmedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.logger.Warn("reading when control confirmed the directory", zap.Error(err))
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err != nil {
		return time.Unix(0, 0).UTC()
	}
	return at
}

// saveConfirmed writes the time of confirmation, at most once a minute unless it is the last word for now.
func (f *Follower) saveConfirmed(now bool) {
	at := f.status.Load().Confirmed
	if f.current == nil || at.Unix() == f.saved.Unix() || !now && at.Sub(f.saved) < savedEvery {
		return
	}
	if err := durable.WriteFile(filepath.Join(f.with.Dir, confirmedFile), []byte(at.Format(time.RFC3339)+"\n"), 0o600); err != nil {
		f.logger.Error("writing when control confirmed the directory", zap.Error(err))
		return
	}
	f.saved = at
}
