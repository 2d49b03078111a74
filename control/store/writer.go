package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"gatehouse/directory"
	"gatehouse/panics"
)

// Bounds of the queue of writes.
const (
	maxQueue  = 1024
	maxGroup  = 128 // writes of one transaction
	maxOps    = 8000
	markEvery = time.Second
	keepKeys  = 24 * time.Hour // how long an idempotency key counts
)

// request is one write that waits. do runs in a savepoint of its own: on an error nothing of it stays.
type request struct {
	do   func(*writer) error
	ops  int
	done chan struct{}
	err  error
}

// writer is one transaction.
type writer struct {
	store  *Store
	staged map[*Environment]*directory.Snapshot // directories after the transaction
	frames map[*Environment][]Change            // what is added to their logs
	after  []func()                             // what happens once it is on disk
}

// Run writes until ctx ends and all that waits is written.
func (s *Store) Run(ctx context.Context) error {
	s.started.Store(true)
	defer close(s.ended)
	var written mark
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	keep := func() {
		if err := s.writeMark(&written); err != nil {
			s.with.Logger.Error("writing the file mark", zap.Error(err))
		}
	}
	defer keep()
	for {
		select {
		case <-ctx.Done():
			for {
				select {
				case r := <-s.queue:
					s.group(r)
				default:
					return nil
				}
			}
		case r := <-s.queue:
			s.group(r)
		case <-tick.C:
			keep()
		}
	}
}

// submit has do executed by Run; before Run has begun its caller executes it. If ctx ends before, the write may still happen.
func (s *Store) submit(ctx context.Context, ops int, do func(*writer) error) error {
	r := &request{do: do, ops: ops, done: make(chan struct{})}
	if !s.started.Load() {
		s.group(r)
		return r.err
	}
	select {
	case s.queue <- r:
	default:
		return ErrBusy
	}
	select {
	case <-r.done:
		return r.err
	case <-s.ended:
		select {
		case <-r.done:
			return r.err
		default:
			return fmt.Errorf("%w: control is stopping", ErrUnavailable)
		}
	case <-ctx.Done():
		return fmt.Errorf("%w: the write may still be made", context.Cause(ctx))
	}
}

// group writes first and what waits with it in one transaction.
func (s *Store) group(first *request) {
	s.writing.Lock()
	defer s.writing.Unlock()
	list, ops := []*request{first}, first.ops
	for more := true; more && len(list) < maxGroup && ops < maxOps; {
		select {
		case r := <-s.queue:
			list, ops = append(list, r), ops+r.ops
		default:
			more = false
		}
	}
	w := &writer{store: s, staged: map[*Environment]*directory.Snapshot{}, frames: map[*Environment][]Change{}}
	if err := w.transaction(list); err != nil {
		s.with.Logger.Error("writing to the database", zap.Error(err))
		for _, r := range list {
			r.err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	} else {
		for _, do := range w.after {
			do()
		}
		for e, next := range w.staged {
			e.publish(next, w.frames[e])
		}
	}
	for _, r := range list {
		close(r.done)
	}
}

// transaction executes the requests. Its error means that nothing was written; a request's own error is its own.
func (w *writer) transaction(list []*request) (err error) {
	if _, err := w.exec("begin immediate"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, _ = w.exec("rollback") // fails where SQLite has rolled back already
		}
	}()
	for _, r := range list {
		if err := w.one(r); err != nil {
			return err
		}
	}
	_, err = w.exec("commit")
	return err
}

// one executes a request in a savepoint.
func (w *writer) one(r *request) error {
	if _, err := w.exec("savepoint one"); err != nil {
		return err
	}
	after := len(w.after)
	if r.err = w.guarded(r.do); r.err != nil {
		w.after = w.after[:after]
		if _, err := w.exec("rollback to one"); err != nil {
			return err
		}
		if failed := (*databaseError)(nil); errors.As(r.err, &failed) {
			return failed.err
		}
	}
	_, err := w.exec("release one")
	return err
}

// guarded turns a panic into an error: the writer serves others too.
func (w *writer) guarded(do func(*writer) error) (err error) {
	defer panics.Into("writing to the database", &err)
	return do(w)
}

// databaseError means that the database failed, not the request.
type databaseError struct{ err error }

func (e *databaseError) Error() string { return e.err.Error() }
func (e *databaseError) Unwrap() error { return e.err }

// exec executes a statement. It does not end with a caller: what is begun is finished.
func (w *writer) exec(text string, args ...any) (int64, error) {
	result, err := w.store.write.ExecContext(context.Background(), text, args...)
	if err != nil {
		return 0, &databaseError{err}
	}
	n, _ := result.RowsAffected() // this driver knows it
	return n, nil
}

// row reads one row; false where there is none.
func (w *writer) row(to []any, text string, args ...any) (bool, error) {
	return scanOne(w.store.write.QueryRowContext(context.Background(), text, args...), to...)
}
