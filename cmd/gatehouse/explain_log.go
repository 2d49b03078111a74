package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxLogLine bounds one line of a decision log, in bytes. A longer one is passed over and counted.
const maxLogLine = 8 << 20

// logged is a line of the decision log, as far as an explanation needs it. Package decisionlog has the meaning of the names.
type logged struct {
	DecisionID string                  `json:"decision_id"`
	Timestamp  string                  `json:"timestamp"`
	Bundles    map[string]loggedBundle `json:"bundles"`
	Path       string                  `json:"path"`
	App        string                  `json:"app"`
	Route      string                  `json:"route"`
	Identity   struct {
		Type, Subject, Issuer string
		Roles                 []string
		Authenticated         bool
	} `json:"identity"`
	Request struct{ Method, Host, Path string } `json:"request"`
	Outcome string                              `json:"outcome"`
	Reason  string                              `json:"reason"`
	Status  int                                 `json:"status"`
	DryRun  bool                                `json:"dry_run"`
	Error   *struct{ Message string }           `json:"error"`
	Erased  []string                            `json:"erased"`
	Masked  []string                            `json:"masked"`
	Input   map[string]any                      `json:"input"`
}

type loggedBundle struct {
	Revision string `json:"revision"`
	Digest   string `json:"digest"`
}

// errNoRecord says that a decision is not in the log.
var errNoRecord = errors.New("no such decision")

// findRecord looks for a decision in a log of JSON lines, as it is or compressed by gzip; "-" is standard input.
func findRecord(file, id string, stdin io.Reader) (*logged, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("reading the decision log: %w", err)
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewReaderSize(in, 1<<16)
	if magic, _ := lines.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(lines)
		if err != nil {
			return nil, fmt.Errorf("reading the decision log %s: %w", file, err)
		}
		lines = bufio.NewReaderSize(z, 1<<16)
	}
	return scanRecords(lines, file, id)
}

// scanRecords reads line by line, and parses those that name the decision.
func scanRecords(lines *bufio.Reader, file, id string) (*logged, error) {
	quoted, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	read, long, broken := 0, 0, 0
	for {
		line, tooLong, err := readLine(lines)
		if len(line) > 0 || tooLong {
			read++
		}
		if tooLong {
			long++
		} else if bytes.Contains(line, quoted) {
			record, ok := parseRecord(line)
			switch {
			case !ok:
				broken++
			case record.DecisionID == id:
				return record, nil
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil, notInLog(file, id, read, long, broken)
		case err != nil:
			return nil, fmt.Errorf("reading the decision log %s, behind line %d: %w", file, read, err)
		}
	}
}

func parseRecord(line []byte) (*logged, bool) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	var record logged
	if err := d.Decode(&record); err != nil {
		return nil, false
	}
	return &record, true
}

func notInLog(file, id string, read, long, broken int) error {
	text := fmt.Sprintf("%v: %q is not in %s (%d lines", errNoRecord, id, file, read)
	if long > 0 {
		text += fmt.Sprintf("; %d longer than %d MiB were passed over", long, maxLogLine>>20)
	}
	if broken > 0 {
		text += fmt.Sprintf("; %d that name it are damaged", broken)
	}
	return errors.New(text + ")\nolder decisions may be in a rotated file: --log FILE names it, compressed or not")
}

// readLine returns the next line without its end. Of one that is too long nothing is kept.
func readLine(lines *bufio.Reader) (line []byte, tooLong bool, err error) {
	for {
		part, err := lines.ReadSlice('\n')
		if tooLong = tooLong || len(line)+len(part) > maxLogLine; tooLong {
			line = nil
		} else {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSpace(line), tooLong, err
		}
	}
}
