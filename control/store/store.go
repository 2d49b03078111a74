// Package store is control's database: SQLite in one folder, owned by one process. It holds the directories of all
// environments with the log of their changes, the tokens of clients and the edges.
//
// Each environment's directory is also in memory as a directory.Snapshot, the same as at its edges: a write is applied
// to it before anything is stored, so that what is accepted here can be applied there. Writes are serialized; those
// that wait share one transaction, and each has a revision of its own, without gaps. A write is answered once it is
// on disk.
//
// A database of another past than the one that edges know must not go on counting its revisions: Open begins a new
// epoch where the file mark beside the database does not fit it.
//
// It may import directory and control/wire.
package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	_ "modernc.org/sqlite" // the driver

	"gatehouse/directory"
)

// Errors of the store.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("exists already")
	ErrEtag        = errors.New("it was changed meanwhile: read it again, and repeat the change with the new etag")
	ErrOwned       = errors.New("it belongs to another source: write with that source, or with take_over")
	ErrReused      = errors.New("this idempotency key was used for another write: take a new key for each write")
	ErrInvalid     = errors.New("invalid")
	ErrBusy        = errors.New("too many writes are waiting: try again in a moment")
	ErrUnavailable = errors.New("the database cannot be written")
	ErrRefused     = errors.New("refused")
	ErrLocked      = errors.New("another gatehouse control serves this folder")
)

// Config is what a Store is made of.
type Config struct {
	Dir    string // made where it is missing
	Logger *zap.Logger
	Clock  func() time.Time // nil: time.Now
}

const (
	databaseFile = "control.db"
	lockFile     = "lock"
)

// Store is control's database. Open makes it; it writes while Run runs.
type Store struct {
	with  Config
	lock  *os.File
	write *sql.Conn // used by Open, then by who holds writing
	wdb   *sql.DB
	read  *sql.DB
	queue chan *request
	epoch string
	ended chan struct{} // closed at the end of Run

	started atomic.Bool // Run runs, or has
	writing sync.Mutex  // held during a transaction

	mu   sync.RWMutex
	envs map[string]*Environment // guarded by mu
	byID map[int64]*Environment  // guarded by mu
}

// Open opens the database of a folder, or makes it, and loads all directories.
func Open(ctx context.Context, with Config) (s *Store, err error) {
	if with.Clock == nil {
		with.Clock = time.Now
	}
	if with.Logger == nil {
		with.Logger = zap.NewNop()
	}
	s = &Store{with: with, queue: make(chan *request, maxQueue), ended: make(chan struct{}), envs: map[string]*Environment{}, byID: map[int64]*Environment{}}
	defer func() {
		if err != nil {
			s.Close()
			s = nil
		}
	}()
	if err := os.MkdirAll(with.Dir, 0o700); err != nil {
		return s, err
	}
	if s.lock, err = takeLock(filepath.Join(with.Dir, lockFile)); err != nil {
		return s, err
	}
	if err := s.connect(ctx); err != nil {
		return s, fmt.Errorf("opening %s: %w", filepath.Join(with.Dir, databaseFile), err)
	}
	if err := s.load(ctx); err != nil {
		return s, fmt.Errorf("%s: %w", filepath.Join(with.Dir, databaseFile), err)
	}
	return s, s.openEpoch(ctx)
}

// takeLock makes this process the folder's only one. The lock ends with the process.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // has no lock
		return nil, fmt.Errorf("%s: %w", filepath.Dir(path), ErrLocked)
	}
	return f, nil
}

// connect opens one connection for writing and a few for reading.
func (s *Store) connect(ctx context.Context) (err error) {
	path := filepath.Join(s.with.Dir, databaseFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // SQLite would make it readable for others
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	const pragmas = "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=cache_size(-8000)"
	name := "file:" + (&uriPath{path}).String() + pragmas
	if s.wdb, err = sql.Open("sqlite", name+"&_txlock=immediate"); err != nil {
		return err
	}
	s.wdb.SetMaxOpenConns(1)
	if s.write, err = s.wdb.Conn(ctx); err != nil {
		return err
	}
	if err := migrate(ctx, s.write); err != nil {
		return err
	}
	if s.read, err = sql.Open("sqlite", name+"&_pragma=query_only(1)"); err != nil {
		return err
	}
	s.read.SetMaxOpenConns(4)
	s.read.SetMaxIdleConns(2)
	return nil
}

// uriPath is a path in a URI of SQLite.
type uriPath struct{ path string }

func (u *uriPath) String() string {
	return strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(u.path)
}

// Close releases what Open opened. It is called after Run has ended.
func (s *Store) Close() {
	if s.write != nil {
		_ = s.write.Close() // what counts is committed
	}
	for _, db := range []*sql.DB{s.read, s.wdb} {
		if db != nil {
			_ = db.Close()
		}
	}
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

// Epoch names the past that revisions count in.
func (s *Store) Epoch() string { return s.epoch }

// Environment finds an environment by its name.
func (s *Store) Environment(name string) (*Environment, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.envs[name]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("environment %q: %w", name, ErrNotFound)
}

// Environments are all environments, by name.
func (s *Store) Environments() []*Environment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*Environment, 0, len(s.envs))
	for _, e := range s.envs {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *Environment) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (s *Store) add(e *Environment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.envs[e.Name], s.byID[e.id] = e, e
}

// nameOf is the name of an environment's number.
func (s *Store) nameOf(id int64) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.byID[id]; e != nil {
		return e.Name
	}
	return ""
}

// load reads the directories of all environments.
func (s *Store) load(ctx context.Context) error {
	rows, err := s.write.QueryContext(ctx, "select id, name, revision, digest from environment order by id")
	if err != nil {
		return err
	}
	type row struct {
		id       int64
		name     string
		revision uint64
		digest   string
	}
	var list []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.id, &r.name, &r.revision, &r.digest); err != nil {
			return errors.Join(err, rows.Close())
		}
		list = append(list, r)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, r := range list {
		snapshot, err := s.loadDirectory(ctx, r.id, r.revision)
		if err != nil {
			return fmt.Errorf("the directory of %s: %w", r.name, err)
		}
		if snapshot.Digest() != r.digest {
			return fmt.Errorf("the directory of %s is not the one that was stored: its digest is %s and should be %s; restore the database from a copy", r.name, snapshot.Digest(), r.digest)
		}
		e := newEnvironment(s, r.id, r.name, snapshot)
		if err := s.loadPolicy(ctx, e); err != nil {
			return fmt.Errorf("the policy of %s: %w", r.name, err)
		}
		var parts bool
		if err := s.write.QueryRowContext(ctx, "select exists (select 1 from object_part where environment = ?)", r.id).Scan(&parts); err != nil {
			return err
		}
		e.hasParts.Store(parts)
		if err := s.loadRollout(ctx, e); err != nil {
			return fmt.Errorf("the rollout of %s: %w", r.name, err)
		}
		s.add(e)
	}
	return nil
}

// loadDirectory reads the directory of one environment.
func (s *Store) loadDirectory(ctx context.Context, id int64, revision uint64) (*directory.Snapshot, error) {
	var text []byte
	if err := s.write.QueryRowContext(ctx, "select text from manifest where environment = ? order by revision desc limit 1", id).Scan(&text); err != nil {
		return nil, fmt.Errorf("its manifest: %w", err)
	}
	manifest, err := directory.ParseManifest("the stored manifest", text)
	if err != nil {
		return nil, err
	}
	b := directory.NewBuilder(manifest, directory.Limits{}, 0, 0)
	rows, err := s.write.QueryContext(ctx, "select type, id, display_name, properties from object where environment = ?", id)
	if err != nil {
		return nil, err
	}
	for rows.Next() && err == nil {
		var o directory.Object
		if err = rows.Scan(&o.Type, &o.ID, &o.DisplayName, &o.Properties); err == nil {
			if err = b.AddObject(o); err != nil {
				err = fmt.Errorf("%s: %w", o, err)
			}
		}
	}
	if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	rows, err = s.write.QueryContext(ctx, "select "+relationColumns+" from relation where environment = ?", id)
	if err != nil {
		return nil, err
	}
	for rows.Next() && err == nil {
		var r directory.Relation
		if r, err = scanRelation(rows); err == nil {
			if err = b.AddRelation(r); err != nil {
				err = fmt.Errorf("%s: %w", r, err)
			}
		}
	}
	if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	return b.Finish(revision)
}

// rawDigest is a directory's digest in bytes.
func rawDigest(text string) []byte {
	b, _ := hex.DecodeString(text) // of our own making
	return b
}
