package format

import (
	"context"
	"runtime"
	"strings"
	"sync"

	"gatehouse/directory"
	"gatehouse/panics"
)

// batch is a part of a file, passed from the reader through a decoder to the Builder.
type batch struct {
	file  string
	line  int    // line number where text begins
	want  kind   // kinds allowed in the file
	text  string // complete records
	spans []span // the records of a document; nil: one per line

	// The result.
	objects       []directory.Object
	objectLines   []int
	relations     []directory.Relation
	relationLines []int
	problems      []problem
	done          chan struct{} // closed after decoding
}

// span is a record in a batch's text.
type span struct {
	start, end int
	line       int
	want       kind
}

// problem is an error in a record, with the record's kind where known.
type problem struct {
	kind kind
	Problem
}

func (b *batch) addProblem(k kind, line int, text string) {
	b.problems = append(b.problems, problem{k, Problem{b.file, line, text}})
}

// decode decodes the records of a batch.
func (b *batch) decode(d *decoder) {
	for _, s := range b.spans {
		b.record(d, b.text[s.start:s.end], s.line, s.want)
	}
	if b.spans != nil {
		return
	}
	line := b.line
	for rest := b.text; rest != ""; line++ {
		var one string
		one, rest, _ = strings.Cut(rest, "\n")
		if one = strings.TrimRight(one, " \t\r"); one != "" {
			b.record(d, one, line, b.want)
		}
	}
}

func (b *batch) record(d *decoder, text string, line int, want kind) {
	is, err := d.record(text, want)
	switch {
	case err != nil:
		b.addProblem(is, line+strings.Count(text[:min(err.at, len(text))], "\n"), err.what)
	case is == kindObject:
		b.objects, b.objectLines = append(b.objects, d.object), append(b.objectLines, line)
	default:
		b.relations, b.relationLines = append(b.relations, d.relation), append(b.relationLines, line)
	}
}

// reader reads a source in batches, and passes each to emit. An already decoded batch has done closed.
type reader func(ctx context.Context, emit func(*batch) error) error

// readSafely reads, and turns a panic into an error.
func (r reader) readSafely(ctx context.Context, emit func(*batch) error) (err error) {
	defer panics.Into("reading the directory", &err)
	return r(ctx, emit)
}

// decodeSafely decodes, and turns a panic into an error.
func (b *batch) decodeSafely(d *decoder) (err error) {
	defer panics.Into("reading the directory", &err)
	b.decode(d)
	return nil
}

// run decodes a reader's batches concurrently, and passes them to sink in order. It returns the first error after its
// goroutines have ended. At most one batch per decoder is in memory.
func run(ctx context.Context, read reader, sink func(*batch) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	workers := runtime.GOMAXPROCS(0)
	work := make(chan *batch)
	ordered := make(chan *batch, workers+1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	send := func(to chan *batch, b *batch) error {
		select {
		case to <- b:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	wg.Go(func() {
		defer close(ordered)
		defer close(work)
		if err := read.readSafely(ctx, func(b *batch) error {
			if b.done != nil {
				return send(ordered, b)
			}
			b.done = make(chan struct{})
			if err := send(ordered, b); err != nil {
				return err
			}
			return send(work, b)
		}); err != nil {
			cancel(err)
		}
	})
	for range workers {
		wg.Go(func() {
			var d decoder
			for b := range work {
				if err := b.decodeSafely(&d); err != nil {
					cancel(err)
				}
				close(b.done)
			}
		})
	}
	for {
		select {
		case b, ok := <-ordered:
			if !ok {
				return context.Cause(ctx)
			}
			select {
			case <-b.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if err := sink(b); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// decoded is the done channel of a batch that needs no decoder.
func decoded() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
