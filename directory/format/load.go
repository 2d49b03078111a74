// Package format reads and writes directories as files: folders with a manifest and JSON lines, Topaz's JSON, YAML, and binary snapshots.
//
// Load is strict. Whatever is unknown, ambiguous, dangling or there twice is a Problem with file and line, and a directory with problems is
// not loaded at all. What it needs beside the result is bounded, however large the files are.
//
// It imports directory alone of ours, besides the foundations.
package format

import (
	"context"
	"errors"

	"gatehouse/directory"
)

// Options are what Load may be told.
type Options struct {
	Manifest string           // file; "": the folder's manifest.yaml, else the default manifest
	Limits   directory.Limits // of the snapshot's questions
	Progress func(Progress)   // nil: nobody is told. Called every few megabytes, by the goroutine that called Load
	Problems int              // how many Load looks for before it gives up; 0: 20
}

// Progress is how far Load is.
type Progress struct {
	Bytes, Total       int64 // read, and to be read; of compressed files as they are on disk
	Objects, Relations int
}

// Load reads the directory in a folder or a file. It ends early, with ctx's error, when ctx does.
func Load(ctx context.Context, path string, o Options) (*directory.Snapshot, error) {
	return nil, errors.New("not yet")
}
