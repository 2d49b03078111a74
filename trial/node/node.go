// Package node puts requests to what a configuration says: a node off to the side, which listens nowhere and logs nothing. Behind check, test,
// explain, replay and bundle diff, and behind policy.smoke. It prints nothing. It may import edge, trial, replay and what they import.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/trial"
)

// Node decides as `gatehouse serve` would with the same configuration, and that is all: nothing listens, nothing is
// logged, no key is fetched that no token needs. Close ends it.
type Node struct {
	*trial.Trial
	Config *config.Config
	Static *edge.Static
	Gate   *gate.Gate
}

// nowhere is an address that no one can serve. Keys that are said to be there are never loaded, so that a token of
// their issuer is neither good nor bad: it cannot be verified here.
const nowhere = "http://127.0.0.1:0/"

// New builds the engine of a configuration, after adjust changed what must be another way for this trial. Keys at a
// URL are fetched where one of these headers may hold a token that they verify. notice is told what is left out.
func New(ctx context.Context, src config.Source, headers gate.Headers, adjust func(*config.Config), notice func(string)) (*Node, error) {
	cfg, doc, err := src.Read()
	if err != nil {
		return nil, err
	}
	// Certificates, log files and what the service keeps need not exist where nothing listens and nothing is written. Tokens for the
	// application are signed with a key of the moment.
	if cfg.Directory.Writable { // it is read, not written
		cfg.Directory.Dir = cfg.DirectoryDir()
	}
	if cfg.Directory.Control { // the edge's own copy
		cfg.Directory.Dir = cfg.ControlDir()
	}
	for i := range cfg.Policy.Bundles {
		if b := &cfg.Policy.Bundles[i]; b.Control {
			b.Kept = cfg.StateDir
		}
	}
	cfg.Listen, cfg.DecisionLog.File, cfg.DecisionLog.Sinks, cfg.StateDir = config.Default().Listen, "", nil, ""
	cfg.Listen.JWKS, cfg.Headers.JWT.KeyFile = cfg.Listen.Admin, ""
	cfg.Policy.Tests.Off, cfg.Policy.Smoke, cfg.Policy.Shadow = true, nil, nil // what is tried is what a request gets; gatehouse test runs them
	adjust(cfg)
	for _, missing := range leaveKeys(cfg, headers) {
		notice(missing)
	}
	t := &Node{Config: cfg}
	if t.Static, err = edge.NewStatic(ctx, edge.Config{Config: cfg, Found: doc.Problems()}); err != nil {
		return nil, err
	}
	t.Gate = t.Static.Gate()
	t.Trial = trial.New(trial.Config{Gate: t.Gate, Issuers: edge.VerifierConfig(cfg, nil, nil).Issuers, Redact: edge.LogConfig(cfg, nil, nil).Redact})
	return t, nil
}

// Close ends it.
func (t *Node) Close() { t.Static.Close() }

// leaveKeys makes issuers unavailable whose key file is not there, and those with keys elsewhere of which no header can hold a token.
// It says which files are missing. What is wrong with the identity section stays as it is, to be reported by whoever reads
// it next.
func leaveKeys(c *config.Config, headers gate.Headers) (missing []string) {
	if _, err := identity.New(edge.VerifierConfig(c, nil, nil)); err != nil {
		return nil
	}
	for i := range c.Identity.JWT {
		j := &c.Identity.JWT[i]
		switch {
		case j.Keys.File == "" && !mayBeIn(j, headers):
			j.Keys = config.Keys{URL: nowhere}
		case j.Keys.File != "":
			if _, err := os.Stat(j.Keys.File); errors.Is(err, fs.ErrNotExist) {
				missing = append(missing, fmt.Sprintf("there is no key file %s: tokens of %q cannot be verified here", j.Keys.File, j.Issuer))
				j.Keys = config.Keys{URL: nowhere}
			}
		}
	}
	return missing
}

// mayBeIn reports whether one of the headers is a place for the issuer's tokens.
func mayBeIn(j *config.JWT, headers gate.Headers) bool {
	from := j.From
	if len(from) == 0 {
		from = []config.Token{{Header: "authorization"}}
	}
	return slices.ContainsFunc(from, func(f config.Token) bool {
		return f.Query != "" || f.Cookie != "" && headers.Get("cookie") != "" || headers.Get(strings.ToLower(f.Header)) != ""
	})
}
