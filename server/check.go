package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/policy/bundle"
	"gatehouse/terminal"
)

// Findings are what Check found.
type Findings struct {
	Problems []error  // why New would start nothing; none: it would start
	Waiting  error    // what New would wait for: it could not be looked at
	Notices  []string // of the policy, and what else New would wait for
}

// Check takes a configuration through all that New does, short of listening, connecting and writing. An error means that it could not be
// done. ctx bounds the fetching of keys and bundles.
func Check(ctx context.Context, with Config) (f Findings, err error) {
	cfg, doc, err := with.read()
	if err != nil {
		if errors.As(err, new(*os.PathError)) {
			return f, err
		}
		return Findings{Problems: []error{err}}, nil
	}
	found := doc.Problems()
	found.Add("log", validateLog(cfg.Log))
	_, flush, err := buildTraces(ctx, cfg.Traces, with.Version)
	found.Add("traces", err)
	if err == nil {
		_ = flush(ctx) // there is nothing to flush
	}
	found.Add("listen", with.validateListen(cfg.Listen))
	temporary, err := os.MkdirTemp("", "gatehouse-check-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(temporary)
	found.Add("decision_log", writeElsewhere(cfg, temporary))
	static, err := edge.NewStatic(ctx, edge.Config{Config: cfg, Found: found, Smoke: with.Smoke, Gate: gate.Config{Logger: zap.NewNop()}})
	switch {
	case ctx.Err() != nil:
		return f, ctx.Err()
	case err == nil:
		f.Notices = static.Policy.Notices()
		static.Close()
	default:
		f.add(doc, err)
	}
	return f, nil
}

// add sorts an error by whether it is one that New waits for.
func (f *Findings) add(doc *config.Document, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			f.add(doc, one)
		}
		return
	}
	problems := bundle.All(err)
	if len(problems) > 0 && !slices.ContainsFunc(problems, func(p bundle.Problem) bool { return p.Stage != "downloading" }) {
		f.Waiting = errors.Join(f.Waiting, err)
		return
	}
	if about, ok := errors.AsType[*config.KeyError](err); ok && !strings.Contains(err.Error(), doc.File+":") {
		err = fmt.Errorf("%s: %w", doc.At(about.Path), err)
	}
	if errors.Is(err, edge.ErrNothingYet) {
		f.Notices = append(f.Notices, "the directory was not checked, serve would wait for control to send it: "+err.Error())
		return
	}
	f.Problems = append(f.Problems, err)
}

// writeElsewhere has all that a configuration writes written below a temporary folder: what a running process keeps is not touched.
func writeElsewhere(c *config.Config, temporary string) error {
	var errs []error
	move := func(key string, file *string) {
		if *file == "" || *file == "-" {
			return
		}
		if dir := filepath.Dir(*file); key != "" {
			if info, err := os.Stat(dir); err != nil || !info.IsDir() {
				errs = append(errs, config.Wrong(key, "the folder %s is not there", dir))
			}
		}
		*file = filepath.Join(temporary, fmt.Sprintf("%x", sha256.Sum256([]byte(*file)))) // the same file stays the same file
	}
	if c.Directory.Writable {
		c.Directory.Dir = c.DirectoryDir() // it is read, not written
	}
	if c.Directory.Control {
		c.Directory.Dir = c.ControlDir() // the edge's copy
	}
	move("decision_log.file", &c.DecisionLog.File)
	for i := range c.DecisionLog.Sinks {
		move(fmt.Sprintf("decision_log.sinks[%d].file", i), &c.DecisionLog.Sinks[i].File)
	}
	move("", &c.DecisionLog.Dir)
	move("", &c.StateDir)
	return errors.Join(errs...)
}

// Write tells the findings about a configuration of this name: problems on out, the rest on notes.
func (f *Findings) Write(out, notes io.Writer, name string, asJSON bool) error {
	if asJSON {
		shown := struct {
			Valid    bool     `json:"valid"`
			Problems []string `json:"problems"`
			Waiting  string   `json:"waiting,omitempty"` // what serve would wait for
			Notices  []string `json:"notices"`
		}{Valid: len(f.Problems) == 0, Problems: []string{}, Notices: append([]string{}, f.Notices...)}
		for _, p := range f.Problems {
			shown.Problems = append(shown.Problems, terminal.Sentences(p, p.Error()))
		}
		if f.Waiting != nil {
			shown.Waiting = terminal.Sentences(f.Waiting, f.Waiting.Error())
		}
		return terminal.JSON(out).Encode(shown)
	}
	for _, notice := range f.Notices {
		fmt.Fprintln(notes, "notice: "+terminal.Visible(notice))
	}
	if f.Waiting != nil {
		fmt.Fprintln(notes, "notice: the policy was not checked, serve would wait for it: "+terminal.VisibleLines(terminal.Sentences(f.Waiting, f.Waiting.Error())))
	}
	name = cmp.Or(name, "the configuration")
	text := name + " is fine\n"
	if len(f.Problems) > 0 {
		text = fmt.Sprintf("%s has %s\n", name, terminal.Count(len(f.Problems), "problem"))
	}
	for _, p := range f.Problems {
		text += terminal.VisibleLines(terminal.Sentences(p, bundle.Excerpts(p))) + "\n"
	}
	_, err := io.WriteString(out, text)
	return err
}
