package apikey

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// maxKeyFile bounds a file of API keys, in bytes, as the server does.
const maxKeyFile = 1 << 20

// AppendToFile puts the key's entry behind what is in the file, which stays as it is, byte for byte, with its owner and mode.
func (k Key) AppendToFile(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Type() != 0 || info.Size() > maxKeyFile {
		return &fs.PathError{Op: "append", Path: path, Err: errors.New("not a regular file of at most 1 MiB")}
	}
	before, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return err
	}
	after, err := k.AppendTo(path, before)
	if err != nil {
		return err
	}
	if _, err := f.Write(after[len(before):]); err != nil {
		return errors.Join(err, f.Truncate(int64(len(before)))) // half an entry would be a broken file
	}
	return f.Sync()
}
