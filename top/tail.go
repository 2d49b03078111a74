package top

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

const (
	mostAtOnce = 8 << 20 // bytes that one look reads of a log; of what is more only the end
	atFirst    = 1 << 20 // bytes that the first look reads
	longest    = 4 << 20 // bytes of a line
)

// tail reads the end of a file that grows and is rotated.
type tail struct {
	path    string
	file    *os.File
	info    os.FileInfo
	at      int64     // where to go on: behind the last whole line
	read    time.Time // when it was read last
	skipped int64     // bytes that were passed over, as there were too many
	problem string    // why it cannot be read
}

func (t *tail) close() {
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}

// lines calls use with each whole line that the file got since the last call.
func (t *tail) lines(now time.Time, use func([]byte)) {
	t.problem = ""
	defer func() { t.read = now }()
	if t.file != nil {
		t.rest(use)
		if info, err := os.Stat(t.path); err == nil && os.SameFile(info, t.info) && info.Size() >= t.at {
			return
		}
		t.close() // it was rotated, or cut
	}
	file, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.problem = fmt.Sprintf("there is no %s yet", t.path)
		return
	} else if err != nil {
		t.problem = fmt.Sprintf("the decision log cannot be read: %v", err)
		return
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		file.Close()
		t.problem = fmt.Sprintf("%s is no file whose end can be read", t.path)
		return
	}
	first := t.read.IsZero()
	t.file, t.info, t.at = file, info, 0
	if first && info.Size() > atFirst {
		t.at = info.Size() - atFirst
		t.skipLine()
	}
	t.rest(use)
}

// skipLine goes to the next beginning of a line.
func (t *tail) skipLine() {
	in := bufio.NewReader(io.NewSectionReader(t.file, t.at, longest))
	for {
		part, err := in.ReadSlice('\n')
		t.at += int64(len(part))
		if !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// rest reads the whole lines that there are.
func (t *tail) rest(use func([]byte)) {
	info, err := t.file.Stat()
	if err != nil {
		return
	}
	if behind := info.Size() - t.at; behind > mostAtOnce {
		t.skipped += behind - mostAtOnce
		t.at = info.Size() - mostAtOnce
		t.skipLine()
	}
	in := bufio.NewReaderSize(io.NewSectionReader(t.file, t.at, mostAtOnce), 64<<10)
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if line = append(line, part...); errors.Is(err, bufio.ErrBufferFull) && len(line) < longest {
			continue
		}
		if errors.Is(err, bufio.ErrBufferFull) { // no decision is as long
			t.skipped += int64(len(line))
			t.at += int64(len(line))
			t.skipLine()
			return
		}
		if err != nil {
			return // the rest of a line is read when it is whole
		}
		t.at += int64(len(line))
		if text := bytes.TrimSpace(line); len(text) > 0 {
			use(text)
		}
		line = line[:0]
	}
}
