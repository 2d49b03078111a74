//go:build !linux

package spool

import (
	"errors"
	"os"
)

const hasSpool = false

var errNoSpool = errors.New("a spool needs Linux")

func preallocate(*os.File, int64) error       { return errNoSpool }
func mapFile(*os.File, int64) ([]byte, error) { return nil, errNoSpool }
func unmap([]byte)                            {}
func populate([]byte)                         {}
func lockFile(string) (*os.File, error)       { return nil, errNoSpool }
func fileID(os.FileInfo) (dev, ino uint64)    { return 0, 0 }
func syncDir(string) error                    { return errNoSpool }
