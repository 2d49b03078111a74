package bundles

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/util"

	"gatehouse/bundles/tarball"
	"gatehouse/policy/bundle"
)

const manifestFile = ".manifest"

// delivery is what a source offers: one bundle, in memory, checked only against the limits. Every source makes deliveries, and only Run's
// goroutine takes them: it reads sources with a path itself, on an event or the poll, and receives those of a fetcher over a channel.
type delivery struct {
	files   map[string][]byte // as from Unpack; must not be changed from here on
	archive string            // SHA-256 of the tarball, in hexadecimal; empty where there is none
	from    string            // its exact origin, for people: a path, a URL with its ETag, an image by digest
	err     error             // why there is no bundle; all fields but from are then empty. Shown in Status, log and metrics
	bundle  *bundle.Bundle    // files already parsed, possibly with deltas applied
	data    int64             // bytes of data in bundle that are not in files
	parts   []archivePart     // for archiving a bundle that was made by deltas
	copy    *rawBundle        // as it arrived; nil: made from files
	back    bool              // a rollback: it may be older than what was active
	says    deliveryKind      // another message of a remote source, instead of a bundle

	// outcome, if set, is called from Run's goroutine after each attempt to activate the delivery: with nil if it is active, also if it was
	// active already, or else with the reason. After an errIncomplete it can be called again, because the delivery is tried again together
	// with others. It must not block.
	outcome func(error)
}

// deliver passes a delivery to Run and waits until it was tried. It returns the outcome, or the context's error.
type deliver func(context.Context, delivery) error

// fetcher is a source that brings its bundles itself. New sets one for each source without a path. It calls deliver, from one goroutine,
// whenever there is a new bundle or an error, and returns when ctx ends. Run starts it once and waits for it; an error before ctx ends ends
// Run. Load calls it too, takes the first delivery, and cancels ctx.
type fetcher func(ctx context.Context, deliver deliver) error

// queuedDelivery is a delivery on its way to Run's goroutine.
type queuedDelivery struct {
	source   *source
	delivery delivery
	tried    chan error // buffered: Run never blocks on the sender
}

// triedTime is how long the outcome of a delivery is waited for that is being tried when everything ends.
const triedTime = 5 * time.Second

// fetchInto runs a source's fetcher and forwards its deliveries.
func (m *Manager) fetchInto(ctx context.Context, s *source, arrivals chan<- queuedDelivery) error {
	err := s.fetch(ctx, func(ctx context.Context, d delivery) error {
		a := queuedDelivery{source: s, delivery: d, tried: make(chan error, 1)}
		select {
		case arrivals <- a:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case err := <-a.tried:
			return err
		case <-ctx.Done():
		}
		select { // it may have become active at this very moment, and is then kept for the next start
		case err := <-a.tried:
			return err
		case <-time.After(triedTime): // Run's goroutine panicked
			return ctx.Err()
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errors.New("it ended unexpectedly")
	}
	return fmt.Errorf("fetching bundle %q: %w", s.Name, err)
}

// fetchOnce returns the first delivery of a source's fetcher.
func fetchOnce(ctx context.Context, s *source) (delivery, error) {
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	var first *delivery
	err := s.fetch(ctx, func(_ context.Context, d delivery) error {
		if first == nil {
			first = &d
		}
		enough()
		return context.Canceled
	})
	switch {
	case first != nil:
		return *first, nil
	case err == nil:
		err = ctx.Err()
	}
	return delivery{}, fmt.Errorf("reading bundle %q: %w", s.Name, err)
}

// candidate is a bundle that passed every check that can be made on it alone.
type candidate struct {
	*bundle.Bundle
	tests       *bundle.Tests // nil if they are not run
	size        int64         // bytes of all files
	serial      int64         // if the source requires one
	archive     string        // as in its delivery
	copy        *rawBundle    // to make it again
	key         string        // hash of all of its files
	contentHash string        // hash of its contents; empty until needed
	keys        []fs.FileInfo // the key files when its signature was verified
	verified    time.Time     // when its signature was verified
	from        string
	outcome     func(error)
	archived    []archivePart // for archiving it, until it is activated
}

// report reports the end of an attempt to the bundle's source.
func (c *candidate) report(err error) {
	if c != nil && c.outcome != nil {
		c.outcome(err)
	}
}

// prepare turns a delivery into a candidate. The signature is verified first, so that nothing unsigned is parsed.
func (m *Manager) prepare(s *source, d delivery) (*candidate, error) {
	if d.err != nil {
		return nil, d.err
	}
	if _, delta := d.files["patch.json"]; delta {
		return nil, bundle.Problems{{Stage: "reading", Bundle: s.Name, File: "patch.json", Text: "a delta bundle: it needs the bundle that it changes, which only an HTTP bundle service can see to"}}
	}
	if d.bundle != nil && s.Verification != nil {
		return nil, bundle.Problems{{Stage: stageVerifying, Bundle: s.Name, File: bundle.DeltaFile, Text: "it was changed by deltas, which no signature covers"}}
	}
	c := &candidate{archive: d.archive, from: d.from, outcome: d.outcome, copy: d.copy, size: d.data}
	for _, content := range d.files {
		c.size += int64(len(content))
	}
	defer m.busy(c.size)()
	if c.copy == nil {
		c.copy = copyOfFiles(d.files)
	}
	switch {
	case d.bundle != nil:
		c.key = fmt.Sprintf("%s of %d", d.bundle.Digest(), len(c.copy.parts))
	case d.archive != "" && !d.back:
		c.key = d.archive
	default:
		c.key = filesKey(d.files)
	}
	var err error
	if d.files, err = m.verify(s, &d, c); err != nil {
		return nil, err
	}
	if err = m.parse(s, &d, c); err != nil {
		return nil, err
	}
	c.archived = m.archiver.of(c, &d)
	return c, nil
}

// parse parses a candidate's contents, unless the last read or Load has parsed the same.
func (m *Manager) parse(s *source, d *delivery, c *candidate) (err error) {
	known := []*candidate{s.active}
	if m.loaded != nil {
		known = append(known, m.loaded.list[slices.Index(m.sources, s)])
	}
	for _, k := range known {
		if k != nil && k.key == c.key {
			c.Bundle, c.tests = k.Bundle, k.tests
			return nil
		}
	}
	files := tarball.Tree(d.files)
	if c.Bundle = d.bundle; c.Bundle == nil {
		if c.Bundle, err = bundle.Read(s.Name, files, m.cfg.Limits); err != nil {
			return err
		}
	}
	if !m.cfg.SkipTests {
		c.tests, err = bundle.ReadTests(s.Name, files, m.cfg.Limits)
	}
	return err
}

// verify checks what the source's verification requires, and returns the files to read. The manifest is re-encoded from what was hashed: of
// a duplicate key the hash covers one value only, and a parser might see both.
func (m *Manager) verify(s *source, d *delivery, c *candidate) (map[string][]byte, error) {
	v, files := s.Verification, d.files
	if v == nil {
		return files, nil
	}
	c.keys, c.verified = v.Look(), m.cfg.Clock()
	if err := v.Verify(s.Name, files, m.cfg.Clock()); err != nil {
		return nil, err
	}
	files = maps.Clone(files)
	refuse := func(format string, args ...any) (map[string][]byte, error) {
		return nil, bundle.Problems{{Stage: "verifying", Bundle: s.Name, File: manifestFile, Text: fmt.Sprintf(format, args...)}}
	}
	var manifest any
	if content, there := files[manifestFile]; there {
		var err error
		if err = util.Unmarshal(content, &manifest); err == nil {
			files[manifestFile], err = json.Marshal(manifest)
		}
		if err != nil {
			return refuse("%v", err)
		}
	}
	if !v.Serial {
		return files, nil
	}
	var ok bool
	if c.serial, ok = serialOf(manifest); !ok {
		return refuse(`no serial: a whole number is expected, as in {"metadata": {"serial": 1}}`)
	}
	highest := s.highest
	if s.remote != nil {
		highest = max(highest, s.remote.highest)
	}
	if c.serial < highest && !d.back {
		return refuse("serial %d is older than %d, which was active already", c.serial, highest)
	}
	return files, nil
}

// serialOf returns the integer "serial" in a manifest's metadata.
func serialOf(manifest any) (int64, bool) {
	top, _ := manifest.(map[string]any)
	metadata, _ := top["metadata"].(map[string]any)
	number, _ := metadata["serial"].(json.Number)
	serial, err := number.Int64()
	return serial, err == nil && serial >= 0
}

// bundlesOf returns the bundles of candidates, skipping missing ones.
func bundlesOf(list []*candidate) []*bundle.Bundle {
	var out []*bundle.Bundle
	for _, c := range list {
		if c != nil {
			out = append(out, c.Bundle)
		}
	}
	return out
}
