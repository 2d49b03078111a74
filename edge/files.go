package edge

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/gate/body"
	"gatehouse/routes"
)

// watchedFile is a small file whose newest good content is in use. Its state is touched by one goroutine at a time.
type watchedFile struct {
	path  string
	limit int64
	stat  fs.FileInfo
	seen  []byte
}

// changed returns the content where it is another than the last time. A file that looks the same is not opened.
func (w *watchedFile) changed() ([]byte, bool, error) {
	stat, err := os.Stat(w.path)
	if err != nil {
		w.stat = nil
		return nil, false, err
	}
	if w.stat != nil && os.SameFile(stat, w.stat) && stat.Size() == w.stat.Size() && stat.ModTime().Equal(w.stat.ModTime()) &&
		time.Since(stat.ModTime()) > 2*time.Second { // a file system's clock may be coarse
		return nil, false, nil
	}
	text, err := config.ReadUpTo(w.path, w.limit)
	if err != nil {
		return nil, false, err
	}
	w.stat = stat
	if w.seen != nil && bytes.Equal(text, w.seen) {
		return nil, false, nil
	}
	w.seen = text
	return text, true, nil
}

// watch calls use with each new content until ctx ends, and again with one that was refused whenever something else has become active:
// what it did not fit may be another by now. Each problem is told once; what was in use before it stays.
func (w *watchedFile) watch(ctx context.Context, what string, problem *atomic.Pointer[string], g *gate.Gate, logger *zap.Logger, use func([]byte) error) {
	const interval = 200 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var refused []byte // the content that was refused; nil: none
	var beside uint64  // what was active then
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text, changed, err := w.changed()
		if !changed && err == nil && refused != nil && g.View().Serial != beside {
			text, changed = refused, true
		}
		if err == nil && changed {
			refused, beside = text, g.View().Serial
			if err = use(text); err == nil {
				refused = nil
			}
		}
		switch old := problem.Load(); {
		case ctx.Err() != nil:
			return
		case err != nil && (old == nil || *old != err.Error()):
			message := err.Error()
			problem.Store(&message)
			logger.Error(what+" changed and cannot be used, the old one stays", zap.String("file", w.path), zap.Error(err))
		case changed && err == nil:
			problem.Store(nil)
			logger.Info(what+" replaced", zap.String("file", w.path))
		case err == nil && refused == nil && old != nil: // it can be read again, and is what it was
			problem.Store(nil)
		}
	}
}

// routeTable keeps the route table of one application as new as its file.
type routeTable struct {
	app     string
	file    watchedFile
	table   *routes.Table // as first read
	problem atomic.Pointer[string]
	count   atomic.Int64
	pending atomic.Pointer[routes.Table] // it parses, and does not fit what is active; nil: none
}

// MaxRoutes bounds a route table, in bytes.
const MaxRoutes = 8 << 20

func newRouteTable(app, path string) *routeTable {
	return &routeTable{app: app, file: watchedFile{path: path, limit: MaxRoutes}}
}

// read reads the table for the first time.
func (r *routeTable) read(logger *zap.Logger) error {
	text, _, err := r.file.changed()
	if err != nil {
		return fmt.Errorf("routes.file: %w", err)
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

func (r *routeTable) watch(ctx context.Context, e *engine) {
	r.file.watch(ctx, "route table", &r.problem, e.gate, e.logger, func(text []byte) error {
		table, err := r.parse(text, e.logger)
		if err != nil {
			r.pending.Store(nil)
			return err
		}
		if err = e.own.publish(ctx, e, r.part(table)); err != nil {
			r.pending.Store(table)
		} else {
			r.pending.Store(nil)
			r.count.Store(int64(len(table.Routes())))
		}
		e.bundles.TryAgain() // a policy may have been refused for these routes, or wait for them
		return err
	})
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
	if text := r.problem.Load(); text != nil {
		out.Error = *text
	}
	return out
}

// descriptors keeps the descriptors of gRPC methods as new as their file.
type descriptors struct {
	file    watchedFile
	problem atomic.Pointer[string]
}

const maxDescriptors = 64 << 20

func newDescriptors(path string) *descriptors {
	return &descriptors{file: watchedFile{path: path, limit: maxDescriptors}}
}

func (d *descriptors) read() (*body.Descriptors, error) {
	text, _, err := d.file.changed()
	if err != nil {
		return nil, fmt.Errorf("policy.protos: %w", err)
	}
	return d.parse(text)
}

func (d *descriptors) parse(text []byte) (*body.Descriptors, error) {
	parsed, err := body.NewDescriptors(text)
	if err != nil {
		return nil, fmt.Errorf("policy.protos: %s: %w", d.file.path, err)
	}
	return parsed, nil
}

func (d *descriptors) watch(ctx context.Context, e *engine) {
	d.file.watch(ctx, "gRPC descriptors", &d.problem, e.gate, e.logger, func(text []byte) error {
		next, err := d.parse(text)
		if err != nil {
			return err
		}
		err = e.own.publish(ctx, e, func(v *gate.View) {
			settings := *v.Settings
			settings.Protos = next
			v.Settings = &settings
		})
		e.bundles.TryAgain()
		return err
	})
}

// degradedRoutes are the route tables, and the descriptors, whose file cannot be used: the old ones are in use.
func (e *engine) degradedRoutes() (list []string) {
	for _, r := range e.routes {
		if text := r.problem.Load(); text != nil {
			list = append(list, fmt.Sprintf("routes: %s cannot be used, the old table stays: %s", r.file.path, *text))
		}
	}
	if e.protos != nil {
		if text := e.protos.problem.Load(); text != nil {
			list = append(list, fmt.Sprintf("routes: %s cannot be used, the old descriptors stay: %s", e.protos.file.path, *text))
		}
	}
	return list
}
