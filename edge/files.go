package edge

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/gate/body"
	"gatehouse/panics"
	"gatehouse/routes"
	"gatehouse/watch"
)

// watchedFile is a file whose last good content is in use. One goroutine at a time uses it; problem may be read by
// any.
type watchedFile struct {
	name    string // for the log
	path    string
	limit   int64
	problem atomic.Pointer[string] // why the content is not in use; nil: it is

	seen       []byte
	refused    []byte // the rejected content; nil: none
	rejectedAt uint64 // the active View's serial at that time
}

// changed returns the content where it differs from the last time.
func (w *watchedFile) changed() ([]byte, bool, error) {
	text, err := watch.ReadFile(w.path, w.limit)
	if err != nil {
		return nil, false, err
	}
	if w.seen != nil && bytes.Equal(text, w.seen) {
		return nil, false, nil
	}
	w.seen = text
	return text, true, nil
}

// check calls use with new content, and again with rejected content after another publication, which may now fit. Each
// problem is logged once; the previous content stays in use.
func (w *watchedFile) check(ctx context.Context, active uint64, logger *zap.Logger, use func([]byte) error) {
	text, changed, err := w.changed()
	if !changed && err == nil && w.refused != nil && active != w.rejectedAt {
		text, changed = w.refused, true
	}
	if err == nil && changed {
		w.refused, w.rejectedAt = text, active
		if err = use(text); err == nil {
			w.refused = nil
		}
	}
	switch old := w.problem.Load(); {
	case ctx.Err() != nil:
	case err != nil && (old == nil || *old != err.Error()):
		message := err.Error()
		w.problem.Store(&message)
		logger.Error(w.name+" changed and cannot be used, the old one stays", zap.String("file", w.path), zap.Error(err))
	case changed && err == nil:
		w.problem.Store(nil)
		logger.Info(w.name+" replaced", zap.String("file", w.path))
	case err == nil && w.refused == nil && old != nil: // readable again and unchanged
		w.problem.Store(nil)
	}
}

// follower is a file that an engine follows, with the use of its content.
type follower struct {
	file *watchedFile
	use  func([]byte) error
}

// followers are the route tables, and the descriptors.
func (e *engine) followers() (list []follower) {
	for _, r := range e.routes {
		list = append(list, follower{&r.file, func(text []byte) error { return r.use(e, text) }})
	}
	if e.protos != nil {
		list = append(list, follower{&e.protos.file, func(text []byte) error { return e.protos.use(e, text) }})
	}
	return list
}

// follow keeps files' content in use until ctx ends. A file is read when it may have changed, a rejected one also
// after each publication.
func (e *engine) follow(ctx context.Context, list []follower) {
	var paths []string
	for _, f := range list {
		paths = append(paths, f.file.path)
	}
	watcher := watch.New(watch.Config{Targets: watch.Paths(paths...), Logger: e.logger})
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() { panics.Loop(ctx, "watching files", watcher.Run) })
	look := func(f follower) { f.file.check(ctx, e.gate.View().Serial, e.logger, f.use) }
	for {
		select {
		case <-ctx.Done():
			return
		case changed := <-watcher.Changed():
			for _, i := range changed {
				look(list[i])
			}
		case <-e.published:
			for _, f := range list {
				if f.file.refused != nil {
					look(f)
				}
			}
		}
	}
}

// notePublished triggers another try of rejected files.
func (e *engine) notePublished() {
	select {
	case e.published <- struct{}{}:
	default: // already signalled, or no files are followed
	}
}

// routeTable keeps one application's route table in step with its file.
type routeTable struct {
	app     string
	file    watchedFile
	table   *routes.Table // the first version
	count   atomic.Int64
	pending atomic.Pointer[routes.Table] // parsed but not accepted with what is active; nil: none
}

// MaxRoutes bounds a route table, in bytes.
const MaxRoutes = 8 << 20

func newRouteTable(app, path string) *routeTable {
	return &routeTable{app: app, file: watchedFile{name: "route table", path: path, limit: MaxRoutes}}
}

// read reads the table for the first time.
func (r *routeTable) read(logger *zap.Logger) error {
	text, _, err := r.file.changed()
	if err != nil {
		return config.Wrong("routes.file", "%w", err)
	}
	if r.table, err = r.parse(text, logger); err == nil {
		r.count.Store(int64(len(r.table.Routes())))
	}
	return err
}

func (r *routeTable) parse(text []byte, logger *zap.Logger) (*routes.Table, error) {
	table, notices, err := routes.Parse(r.file.path, text)
	if err != nil {
		return nil, err
	}
	for _, n := range notices {
		logger.Warn("route table", zap.String("notice", n.String()))
	}
	return table, nil
}

// use publishes the file's content.
func (r *routeTable) use(e *engine, text []byte) error {
	table, err := r.parse(text, e.logger)
	if err != nil {
		r.pending.Store(nil)
		return err
	}
	if err = e.publisher.publish(e.ctx, e, r.part(table)); err != nil {
		r.pending.Store(table)
	} else {
		r.pending.Store(nil)
		r.count.Store(int64(len(table.Routes())))
	}
	e.bundles.RetryRefused() // a policy may have been rejected because of the old routes
	return err
}

// part puts a table into the next View.
func (r *routeTable) part(table *routes.Table) gate.Part {
	return func(v *gate.View) {
		v.Routes = maps.Clone(v.Routes)
		v.Routes[r.app] = table
	}
}

func (r *routeTable) status() RoutesStatus {
	out := RoutesStatus{App: r.app, File: r.file.path, Routes: r.count.Load()}
	if text := r.file.problem.Load(); text != nil {
		out.Error = *text
	}
	return out
}

// descriptors keeps the gRPC descriptors in step with their file.
type descriptors struct {
	file watchedFile
}

const maxDescriptors = 64 << 20

func newDescriptors(path string) *descriptors {
	return &descriptors{file: watchedFile{name: "gRPC descriptors", path: path, limit: maxDescriptors}}
}

func (d *descriptors) read() (*body.Descriptors, error) {
	text, _, err := d.file.changed()
	if err != nil {
		return nil, config.Wrong("policy.protos", "%w", err)
	}
	return d.parse(text)
}

func (d *descriptors) parse(text []byte) (*body.Descriptors, error) {
	parsed, err := body.NewDescriptors(text)
	if err != nil {
		return nil, config.Wrong("policy.protos", "%s: %w", d.file.path, err)
	}
	return parsed, nil
}

// use publishes the file's content.
func (d *descriptors) use(e *engine, text []byte) error {
	next, err := d.parse(text)
	if err != nil {
		return err
	}
	err = e.publisher.publish(e.ctx, e, func(v *gate.View) {
		settings := *v.Settings
		settings.Protos = next
		v.Settings = &settings
	})
	e.bundles.RetryRefused()
	return err
}

// degradedRoutes lists the files (route tables and descriptors) whose content is not in use: the previous one is.
func (e *engine) degradedRoutes() (list []string) {
	for _, r := range e.routes {
		if text := r.file.problem.Load(); text != nil {
			list = append(list, fmt.Sprintf("routes: %s cannot be used, the old table stays: %s", r.file.path, *text))
		}
	}
	if e.protos != nil {
		if text := e.protos.file.problem.Load(); text != nil {
			list = append(list, fmt.Sprintf("routes: %s cannot be used, the old descriptors stay: %s", e.protos.file.path, *text))
		}
	}
	return list
}
