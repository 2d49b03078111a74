package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"

	"gatehouse/directory"
)

// Bounds of the changes that are kept in memory for the edges that are close behind. The others read the database.
const (
	ringChanges = 4096
	ringBytes   = 16 << 20
)

// Environment is one directory, with the log of its changes.
type Environment struct {
	Name  string // project/name
	id    int64
	store *Store

	snapshot atomic.Pointer[directory.Snapshot] // what is on disk

	hasParts atomic.Bool // there are rows in object_part

	mu    sync.Mutex    // guards what is below
	ring  []Change      // the newest, without a gap
	bytes int           // of their operations
	wake  chan struct{} // closed with the next change

	promotion *Promotion    // what its policy is; nil: nothing was promoted
	rollout   *Rollout      // of another revision, under way; nil: none
	guard     Guard         // of rollouts
	repointed chan struct{} // closed when promotion or rollout changes
}

// Change is one revision.
type Change struct {
	Revision uint64
	Digest   []byte // of the directory after it
	Ops      []byte // encoded api.Ops
}

func newEnvironment(s *Store, id int64, name string, snapshot *directory.Snapshot) *Environment {
	e := &Environment{Name: name, id: id, store: s, wake: make(chan struct{}), repointed: make(chan struct{})}
	e.snapshot.Store(snapshot)
	return e
}

// Snapshot is the directory as it is on disk.
func (e *Environment) Snapshot() *directory.Snapshot { return e.snapshot.Load() }

// publish makes a directory that is on disk the environment's one. Only Run calls it.
func (e *Environment) publish(next *directory.Snapshot, changes []Change) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.snapshot.Store(next)
	for _, c := range changes {
		e.ring = append(e.ring, c)
		e.bytes += len(c.Ops)
	}
	drop := 0
	for ; len(e.ring)-drop > ringChanges || e.bytes > ringBytes && drop < len(e.ring)-1; drop++ {
		e.bytes -= len(e.ring[drop].Ops)
		e.ring[drop] = Change{}
	}
	e.ring = e.ring[drop:]
	close(e.wake)
	e.wake = make(chan struct{})
}

// Since are changes after a revision, up to a number and a size of them, in order; with none it is a channel that is
// closed when there are. What is too old for memory is read from the database.
func (e *Environment) Since(ctx context.Context, revision uint64, bytes int) ([]Change, <-chan struct{}, error) {
	const most = 1000
	e.mu.Lock()
	head, wake := e.snapshot.Load().Revision(), e.wake
	var list []Change
	if n := len(e.ring); n > 0 && revision < head && revision+1 >= e.ring[0].Revision {
		list = e.ring[revision+1-e.ring[0].Revision:]
		list = append([]Change(nil), list[:min(most, len(list))]...)
	}
	e.mu.Unlock()
	if revision >= head {
		return nil, wake, nil
	}
	if list == nil {
		var err error
		if list, err = e.stored(ctx, revision, most, bytes); err != nil {
			return nil, nil, err
		}
	}
	total := 0
	for i, c := range list {
		if total += len(c.Ops); total > bytes && i > 0 {
			return list[:i], nil, nil
		}
	}
	return list, nil, nil
}

// stored reads changes from the database.
func (e *Environment) stored(ctx context.Context, after uint64, most, bytes int) (list []Change, err error) {
	rows, err := e.store.read.QueryContext(ctx, "select revision, digest, ops from change where environment = ? and revision > ? order by revision limit ?", e.id, after, most)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for total := 0; rows.Next() && total < bytes; {
		var c Change
		var digest string
		if err := rows.Scan(&c.Revision, &digest, &c.Ops); err != nil {
			return nil, err
		}
		if c.Revision != after+uint64(len(list))+1 {
			return nil, fmt.Errorf("the log of %s has a gap after revision %d", e.Name, after+uint64(len(list)))
		}
		c.Digest = rawDigest(digest)
		total += len(c.Ops)
		list = append(list, c)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("the log of %s ends before revision %d", e.Name, after+1)
	}
	return list, nil
}

// Known reports whether the directory had this digest at a revision of this epoch.
func (e *Environment) Known(ctx context.Context, epoch string, revision uint64, digest []byte) (bool, error) {
	if epoch != e.store.epoch || revision == 0 {
		return false, nil
	}
	var stored string
	ok, err := scanOne(e.store.read.QueryRowContext(ctx, "select digest from change where environment = ? and revision = ?", e.id, revision), &stored)
	return ok && string(rawDigest(stored)) == string(digest), err
}

// Behind is how many bytes of changes there are after a revision.
func (e *Environment) Behind(ctx context.Context, revision uint64) (bytes int64, err error) {
	_, err = scanOne(e.store.read.QueryRowContext(ctx, "select coalesce(sum(size), 0) from change where environment = ? and revision > ?", e.id, revision), &bytes)
	return bytes, err
}

func scanOne(row *sql.Row, to ...any) (bool, error) {
	err := row.Scan(to...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, &databaseError{err}
	}
	return true, nil
}

var environmentName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9-]{0,62}$`)

// maxEnvironments bounds what one control keeps in memory.
const maxEnvironments = 1000

// CreateEnvironment makes an environment with the built-in manifest, which is its first revision.
func (s *Store) CreateEnvironment(ctx context.Context, name, actor string) (*Environment, error) {
	if !environmentName.MatchString(name) {
		return nil, fmt.Errorf("%w: environment %q: name it project/environment, in small letters, digits and -", ErrInvalid, name)
	}
	var out *Environment
	err := s.submit(ctx, 1, func(w *writer) error {
		var id int64
		if found, err := w.row([]any{&id}, "select id from environment where name = ?", name); err != nil || found {
			return errors.Join(err, fmt.Errorf("environment %s %w", name, ErrExists))
		}
		if len(s.Environments()) >= maxEnvironments {
			return fmt.Errorf("%w: there are %d environments already", ErrInvalid, maxEnvironments)
		}
		if _, err := w.exec("insert into environment (name, revision, digest, created_at) values (?, 0, '', ?)", name, s.with.Clock().Unix()); err != nil {
			return err
		}
		if _, err := w.row([]any{&id}, "select id from environment where name = ?", name); err != nil {
			return err
		}
		m := directory.DefaultManifest()
		e := newEnvironment(s, id, name, directory.New(m, directory.Limits{}))
		if _, err := w.directory(e, &Write{Actor: actor, Source: "system", Manifest: m, first: true}); err != nil {
			return err
		}
		w.after = append(w.after, func() { s.add(e) })
		out = e
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
