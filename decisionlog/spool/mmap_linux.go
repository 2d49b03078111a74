package spool

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const hasSpool = true

// preallocate takes the space from the disk. Where the file system cannot promise it, zeros are written: a file with holes
// would end the process with SIGBUS on a full disk.
func preallocate(f *os.File, size int64) error {
	err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
	if !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.ENOSYS) {
		return err
	}
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}

func mapFile(f *os.File, size int64) ([]byte, error) {
	return syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
}

func unmap(data []byte) { _ = syscall.Munmap(data) } // fails only for what is no mapping

// populate takes the page faults that requests would otherwise take. Kernels before 5.14 do not know how; then requests do.
func populate(data []byte) {
	const madvPopulateWrite = 23
	_ = syscall.Madvise(data, madvPopulateWrite)
}

// lockFile makes sure that one process alone uses a spool. The lock ends with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%q is in use by another process: end the other gatehouse serve, or give each one a directory of its own (state_dir, decision_log.dir)", path)
		}
		return nil, err
	}
	return f, nil
}

// fileID tells files apart.
func fileID(info os.FileInfo) (dev, ino uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Dev, st.Ino
	}
	return 0, 0
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
