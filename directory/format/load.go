// Package format reads and writes directories as files: folders with a manifest and JSON lines, Topaz's JSON, YAML,
// and binary snapshots.
//
// Load is strict. Unknown, ambiguous, dangling or duplicate data is a Problem with file and line, and a directory
// with problems is not loaded. Memory besides the result is bounded, whatever the files' size.
//
// Of this module it imports directory alone, besides the foundations.
package format

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"gatehouse/directory"
	"gatehouse/watch"
)

// Options are the options of Load.
type Options struct {
	Manifest string           // file; "": the folder's manifest.yaml, else the default manifest
	Force    bool             // drop a snapshot's data that Manifest does not allow
	Limits   directory.Limits // of the snapshot's questions
	Progress func(Progress)   // nil: none. Called about every megabyte, by the goroutine that called Load
	Problems int              // Load stops after this many; 0: 20
}

// Progress is the progress of Load.
type Progress struct {
	Bytes, Total       int64 // read so far, and in total; compressed sizes of compressed files
	Objects, Relations int
}

// ErrChanged means that files changed while they were read. Retry Load.
var ErrChanged = errors.New("changed while it was read")

// Load reads the directory in a folder or a file. A readable directory with problems returns *Problems. Load ends
// early, with ctx's error, when ctx does.
func Load(ctx context.Context, path string, o Options) (*directory.Snapshot, error) {
	f, err := find(path)
	if err != nil {
		return nil, err
	}
	if o.Problems <= 0 {
		o.Problems = 20
	}
	if f.misnamed != "" && f.manifest == "" && o.Manifest == "" {
		return nil, fmt.Errorf("%s is not read: name it %s", f.misnamed, ManifestFile)
	}
	l := &loader{options: o, folder: f}
	for _, s := range f.sources {
		l.progress.Total += s.info.Size() * int64(s.passes())
	}
	var s *directory.Snapshot
	if f.sources[0].form == formSnapshot {
		s, err = l.snapshot(ctx, f.sources[0])
	} else {
		s, err = l.build(ctx)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, from := range f.sources {
		if from.changed() {
			return nil, fmt.Errorf("%s %w; load it once more", from.path, ErrChanged)
		}
	}
	return s, err
}

// loader is the state of one Load.
type loader struct {
	options  Options
	folder   *folder
	manifest *directory.Manifest
	read     atomic.Int64 // bytes
	progress Progress
	problems []Problem
	more     bool     // more problems than the limit
	twice    []*twice // duplicate objects
	untyped  *untyped // types missing in the built-in manifest; nil with another manifest
}

// errEnough stops a pass at the maximum number of problems.
var errEnough = errors.New("enough problems")

// passes is how often a file is read: all objects come before relations, also where a file mixes them.
func (s *source) passes() int {
	if s.want == kindAny && s.form != formSnapshot {
		return 2
	}
	return 1
}

// ReadManifest reads the manifest of a file.
func ReadManifest(file string) (*directory.Manifest, error) {
	text, err := watch.ReadFile(file, maxManifest) // does not block on a pipe
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	return directory.ParseManifest(file, text)
}

func (l *loader) readManifest() (err error) {
	switch {
	case l.options.Manifest != "":
		l.manifest, err = ReadManifest(l.options.Manifest)
	case l.folder.manifest != "":
		l.manifest, err = ReadManifest(l.folder.manifest)
	default:
		l.manifest = directory.DefaultManifest()
		l.untyped = &untyped{}
	}
	return err
}

// snapshot reads a binary snapshot, which includes its manifest.
func (l *loader) snapshot(ctx context.Context, from *source) (*directory.Snapshot, error) {
	in, err := from.open(&l.read)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	s, err := directory.Read(bufio.NewReaderSize(&watched{ctx, in, l}, 1<<20), l.options.Limits)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from.path, err)
	}
	if l.options.Manifest == "" && l.folder.manifest == "" {
		return s, nil
	}
	if err := l.readManifest(); err != nil {
		return nil, err
	}
	if string(l.manifest.Text()) == string(s.Manifest().Text()) {
		return s, nil
	}
	return s.SetManifest(l.manifest, l.options.Force)
}

// watched stops reading when ctx ends, and reports progress.
type watched struct {
	ctx context.Context
	in  io.Reader
	l   *loader
}

func (w *watched) Read(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	w.l.reportProgress()
	return w.in.Read(p)
}

func (l *loader) reportProgress() {
	if l.options.Progress != nil {
		l.progress.Bytes = l.read.Load()
		l.options.Progress(l.progress)
	}
}

// build reads text formats.
func (l *loader) build(ctx context.Context) (*directory.Snapshot, error) {
	if err := l.readManifest(); err != nil {
		return nil, err
	}
	objects, relations := l.guess()
	b := directory.NewBuilder(l.manifest, l.options.Limits, objects, relations)
	err := l.pass(ctx, kindObject, func(part *batch) error { return l.addObjects(b, part) })
	if err == nil {
		err = l.pass(ctx, kindRelation, func(part *batch) error { return l.addRelations(b, part) })
	}
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	var s *directory.Snapshot
	if err == nil {
		l.reportProgress()
		if s, err = b.Finish(0); errors.Is(err, directory.ErrDuplicate) {
			err = l.sameRelations(ctx)
		}
		if err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
	}
	if len(l.problems) == 0 && len(l.twice) == 0 {
		return s, err
	}
	if err := l.sameObjects(ctx); err != nil {
		return nil, err
	}
	return nil, &Problems{List: l.problems, More: l.more}
}

// guess estimates the number of records by file size. Too low costs some time, too high some memory.
func (l *loader) guess() (objects, relations int) {
	const object, relation = 120, 130 // bytes of text
	for _, s := range l.folder.sources {
		if s.packed != "" || s.want == kindAny {
			continue
		}
		if s.want == kindObject {
			objects += int(s.info.Size() / object)
		} else {
			relations += int(s.info.Size() / relation)
		}
	}
	return objects, relations
}

// pass reads the files that may have records of one kind.
func (l *loader) pass(ctx context.Context, what kind, sink func(*batch) error) error {
	for _, s := range l.folder.sources {
		if s.want != kindAny && s.want != what {
			continue
		}
		if err := l.passFile(ctx, s, sink); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) passFile(ctx context.Context, s *source, sink func(*batch) error) error {
	in, err := s.open(&l.read)
	if err != nil {
		return err
	}
	defer in.Close()
	var read reader
	switch s.form {
	case formLines:
		read = readLines(s.path, in, s.want)
	case formYAML:
		read = readYAML(s.path, in)
	default:
		read = readDocument(s.path, in, s.want)
	}
	return run(ctx, read, sink)
}

// addProblem records a problem; errEnough at the limit.
func (l *loader) addProblem(file string, line int, text string) error {
	if len(l.problems) == l.options.Problems {
		l.more = true
		return errEnough
	}
	l.problems = append(l.problems, Problem{file, line, text})
	return nil
}

func (l *loader) addObjects(b *directory.Builder, part *batch) error {
	next := 0
	err := l.merge(part, kindObject, part.objectLines, func(i int) error {
		o := &part.objects[i]
		err := b.AddObject(*o)
		switch {
		case err == nil:
			next++
			return nil
		case errors.Is(err, directory.ErrDuplicate):
			l.twice = append(l.twice, &twice{ref: o.Ref, problem: len(l.problems)})
		case l.untyped != nil && errors.Is(err, directory.ErrUnknownType):
			return l.unknownType(part.file, part.objectLines[i], objectProblem(l.manifest, o, err), o.Type)
		}
		return l.addProblem(part.file, part.objectLines[i], objectProblem(l.manifest, o, err))
	})
	l.progress.Objects += next
	l.reportProgress()
	return err
}

func (l *loader) addRelations(b *directory.Builder, part *batch) error {
	next := 0
	err := l.merge(part, kindRelation, part.relationLines, func(i int) error {
		err := b.AddRelation(part.relations[i])
		if err == nil {
			next++
			return nil
		}
		r := &part.relations[i]
		if l.untyped != nil && errors.Is(err, directory.ErrUnknownType) {
			return l.unknownType(part.file, part.relationLines[i], relationProblem(l.manifest, r, err), r.Object.Type, r.Subject.Type)
		}
		return l.addProblem(part.file, part.relationLines[i], relationProblem(l.manifest, r, err))
	})
	l.progress.Relations += next
	l.reportProgress()
	return err
}

// merge visits a batch's records and problems of a kind in line order. Problems of records of unknown kind belong to
// the objects; a file of relations alone has only one pass, to which all belong.
func (l *loader) merge(part *batch, what kind, lines []int, add func(i int) error) error {
	problems := part.problems
	i := 0
	for i < len(lines) || len(problems) > 0 {
		if len(problems) == 0 || i < len(lines) && lines[i] <= problems[0].Line {
			if err := add(i); err != nil {
				return err
			}
			i++
			continue
		}
		p := problems[0]
		problems = problems[1:]
		if l.belongs(p.kind, part.want, what) {
			if err := l.addProblem(p.File, p.Line, p.Text); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loader) belongs(is, file, pass kind) bool {
	switch {
	case file != kindAny:
		return true
	case is == kindAny:
		return pass == kindObject
	}
	return is == pass
}
