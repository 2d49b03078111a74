package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
)

// repairNotice is how long is said what was repaired.
const repairNotice = time.Minute

// checkFolder finds out what others did to the spool's folder while it was in use, and mends it: a folder that is gone is made again, and
// locked; segments that lost their names are appended to no longer (what they have is still read); positions are saved anew. Only the keeper
// calls it.
func (sp *Spool) checkFolder() {
	err := sp.settleIn()
	wrong := ""
	if err != nil {
		wrong = err.Error()
	}
	sp.mu.Lock()
	changed := sp.wrong != wrong
	sp.wrong = wrong
	sp.mu.Unlock()
	if changed && wrong != "" {
		sp.log.Error("the decision log's spool cannot use its folder; will keep trying", zap.String("dir", sp.dir), zap.Error(err))
	}
	if wrong != "" {
		return // what has lost its name is better than nothing
	}
	for s := sp.current.Load(); s != nil; s = s.next.Load() {
		sp.inspect(s)
	}
	sp.removeHidden()
	if err := errors.Join(sp.replace(), sp.saveAgain()); err != nil {
		sp.log.Error("saving the decision log's positions anew", zap.String("dir", sp.dir), zap.Error(err))
	}
}

// settleIn makes the folder again where it is gone, and takes the lock of one that has come into its place.
func (sp *Spool) settleIn() error {
	now, err := os.Stat(sp.dir)
	if err == nil && !now.IsDir() {
		return fmt.Errorf("%s is not a folder: remove it", sp.dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && os.SameFile(now, sp.folderInfo) {
		return nil
	}
	if err := os.MkdirAll(sp.dir, 0o700); err != nil {
		return fmt.Errorf("making the folder again: %w", err)
	}
	lock, err := lockFile(filepath.Join(sp.dir, "lock"))
	if err != nil {
		return err
	}
	if now, err = os.Stat(sp.dir); err != nil {
		lock.Close()
		return err
	}
	sp.mu.Lock()
	sp.lock.Close()
	sp.lock, sp.folderInfo = lock, now
	sp.mu.Unlock()
	sp.log.Warn("the folder of the decision log's spool was removed or replaced; it is in use again", zap.String("dir", sp.dir))
	sp.note("the folder was removed while it was in use, and made again")
	return nil
}

// inspect retires a segment that has lost its name, or a part of its file.
func (sp *Spool) inspect(s *segment) {
	if s.file == nil || s.old || s.unnamed || s.retired.Load() {
		return
	}
	info, err := s.file.Stat()
	if err != nil {
		return // closed: the sinks have it
	}
	if uint64(info.Size()) < s.size() {
		sp.retireCut(s)
		return
	}
	if named, err := os.Lstat(s.path); err == nil && os.SameFile(named, info) {
		return
	}
	s.unnamed = true // the sinks get what it has; a kill would cost that
	sp.log.Warn("a segment of the decision log's spool was removed while it was in use", zap.String("segment", s.path))
	sp.note("a segment was removed while it was in use")
}

// free is the first number from the given one on that no other file has. A folder that was moved away and back may have some.
func (sp *Spool) free(number uint64) uint64 {
	for range 1 << 16 {
		info, err := os.Lstat(segmentPath(sp.dir, number))
		if err != nil || !info.Mode().IsRegular() {
			break
		}
		number++
	}
	return number
}

// hiddenFile is a file whose name was not where it should be: it was removed, or something covers the folder for a while.
type hiddenFile struct {
	path string
	info fs.FileInfo
}

// maxHidden bounds how many of them are remembered: more than the segments of a full spool.
const maxHidden = 64

// saveAgain saves the positions where that failed, and removes what no reader needs any more: a full disk gets room by that, and a reader that has
// everything commits no more.
func (sp *Spool) saveAgain() error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if !sp.unsaved {
		return nil
	}
	for _, r := range *sp.readers.Load() {
		if err := r.pos.save(); err != nil {
			return err
		}
	}
	sp.unsaved = false
	return sp.trim()
}

// removeHidden removes the files that had to stay while something covered the folder, such as a mount: nobody else would, and they fill the
// disk.
func (sp *Spool) removeHidden() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.hidden = slices.DeleteFunc(sp.hidden, func(h hiddenFile) bool {
		named, err := os.Lstat(h.path)
		if err != nil || !os.SameFile(named, h.info) {
			return false // it may come back
		}
		err = os.Remove(h.path)
		return err == nil || errors.Is(err, fs.ErrNotExist)
	})
}

// remove takes a segment's name off the disk, if it is still this one's. left is the file where it could not.
func (s *segment) remove() (left fs.FileInfo, err error) {
	if s.path == "" || s.file == nil {
		return nil, nil
	}
	mine, err := s.file.Stat()
	if err != nil {
		return nil, err
	}
	named, err := os.Lstat(s.path)
	if err != nil || !os.SameFile(mine, named) {
		return mine, nil
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return mine, err
	}
	return nil, nil
}

// replace makes the positions' files again that are not where they were.
func (sp *Spool) replace() error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	var errs []error
	for name, r := range sp.known {
		errs = append(errs, r.pos.replace(sp.dir, name))
	}
	return errors.Join(errs...)
}

// replace makes the file again if it is not where it was, and saves what it is to say.
func (p *position) replace(dir, name string) error {
	path := filepath.Join(dir, positionFile+name)
	mine, err := p.file.Stat()
	if err != nil {
		return nil // it has been closed: this is the end
	}
	if named, err := os.Lstat(path); err == nil && os.SameFile(mine, named) {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	p.file.Close()
	p.file = f
	if !p.known {
		return nil
	}
	// Both slots: the file may be an older one of ours, with a place of that time.
	return errors.Join(p.save(), p.save())
}

// note says for a while what was repaired.
func (sp *Spool) note(text string) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.noted == nil {
		sp.noted = map[string]time.Time{}
	}
	sp.noted[text] = time.Now()
}

// FullSince is how long there has been no further segment.
func (sp *Spool) FullSince() time.Duration {
	if ns := sp.since.Load(); ns != 0 {
		return time.Since(sp.created) - time.Duration(ns-1)
	}
	return 0
}

// Degraded says what is wrong with the spool.
func (sp *Spool) Degraded() (list []string) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	switch {
	case sp.wrong != "":
		list = append(list, "the spool cannot use its folder: "+sp.wrong)
	case sp.lastErr != "":
		list = append(list, "the spool has no room: "+sp.lastErr)
	}
	for _, text := range slices.Sorted(maps.Keys(sp.noted)) {
		if time.Since(sp.noted[text]) < repairNotice {
			list = append(list, "the spool: "+text)
		}
	}
	return list
}
