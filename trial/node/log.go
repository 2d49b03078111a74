package node

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"gatehouse/config"
	"gatehouse/decisionlog"
	"gatehouse/decisionlog/read"
	"gatehouse/edge"
)

// WhichLogError is the error of a configuration that names no log, or that cannot be read.
type WhichLogError struct{ error }

// OpenLog opens the decision log of a configuration: its file and its spool.
func OpenLog(ctx context.Context, s config.Source) (*read.Reader, error) {
	none := WhichLogError{errors.New("which decision log? --log FILE names it; the configuration has no decision_log.file")}
	if s.File == "" {
		return nil, none
	}
	cfg, _, err := s.Read()
	if err != nil {
		return nil, WhichLogError{err}
	}
	log := edge.LogConfig(cfg, nil, nil)
	file := func(s decisionlog.Sink) bool { return s.File != "" && s.File != "-" }
	if !slices.ContainsFunc(append(log.Sinks, decisionlog.Sink{File: log.File}), file) && log.Dir == "" {
		return nil, none
	}
	log.Rules = spoolRules(ctx, s, log.Dir)
	return read.OpenLog(log)
}

// spoolRules are the rules of the policy about what a spool has; nil where it has none. Where they cannot be had, what they might have taken
// out is taken out.
func spoolRules(ctx context.Context, s config.Source, dir string) func(context.Context, []byte) decisionlog.Ruling {
	if !edge.HasLogRules(dir) {
		return nil
	}
	t, err := New(ctx, s, nil, func(*config.Config) {}, func(string) {})
	if err != nil {
		return masked(err)
	}
	defer t.Close()
	return edge.LogRules(t.Static.Policy)
}

// masked is for events of which nobody can say what the policy wants to be masked.
func masked(err error) func(context.Context, []byte) decisionlog.Ruling {
	return func(context.Context, []byte) decisionlog.Ruling { return decisionlog.Ruling{MaskError: err} }
}

// OpenLogAt opens a log by its path. A spool whose policy has rules about the log shows neither input nor result: only the
// configuration knows these rules.
func OpenLogAt(path string, stdin io.Reader) (*read.Reader, error) {
	if info, err := os.Stat(path); path != "-" && err == nil && info.IsDir() && edge.HasLogRules(path) {
		cfg := decisionlog.Config{Dir: path, Rules: masked(errors.New("the policy's masks are not known here"))}
		if log, err := read.OpenLog(cfg); err == nil {
			return log, nil
		}
	}
	return read.OpenReader(path, stdin)
}
