package bundles

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/bundles/tarball"
	"gatehouse/durable"
	"gatehouse/policy/bundle"
)

// Archive says where every bundle that was active is kept by its digest, so that its decisions can be explained and replayed later.
type Archive struct {
	Dir   string        // made where it is missing; empty: nothing is kept
	For   time.Duration // after it was last active
	Bytes int64         // of all files together; the oldest go first, the active ones never; default 256 MiB
}

// An archiver keeps bundles as files named by the digest that the decision log tells: a tarball of what the digest is made of. What a
// delta made of a bundle is kept as that delta with the digest of the bundle before it. A file is written beside and renamed;
// its time is when the bundle was last known to be active, give or take archiveEvery.
type archiver struct {
	Archive
	logger  *zap.Logger
	clock   func() time.Time
	metrics archiveMetrics
	wake    chan struct{}

	mu      sync.Mutex        // guards what is below
	pending []archiveJob      // to be written; at most maxPending
	active  map[string]string // digest of the active bundle by source
	others  []string          // digests that can be rolled back to
}

const (
	archiveEnding  = ".tar.gz"
	archiveEvery   = 10 * time.Minute // how often times are renewed and what is too old is removed
	maxPending     = 8                // bundles waiting to be written: beyond that the disk is stuck, and the oldest is given up
	beforeFile     = ".before"        // within the file of a delta: the digest of the bundle that it changes
	defaultArchive = 256 << 20
)

// archiveJob is a bundle to be kept.
type archiveJob struct {
	digest string
	parts  []archivePart // to be written in this order; none: the file is only renewed
}

// archivePart is one file: a bundle by its files, or a delta by its files and what it changes.
type archivePart struct {
	digest, before string
	files          map[string][]byte
}

type archiveMetrics struct {
	bytes  prometheus.Gauge
	failed prometheus.Counter
}

func newArchiver(cfg *Config) (*archiver, error) {
	if cfg.Archive.Dir == "" || cfg.Archive.For == 0 {
		return nil, nil
	}
	if cfg.Archive.For < 0 || cfg.Archive.Bytes < 0 {
		return nil, fmt.Errorf("keeping bundles for %v and in %d bytes: neither may be negative", cfg.Archive.For, cfg.Archive.Bytes)
	}
	p := &archiver{Archive: cfg.Archive, logger: cfg.Logger, clock: cfg.Clock, wake: make(chan struct{}, 1), active: map[string]string{},
		metrics: archiveMetrics{
			bytes:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "gatehouse_bundle_archive_bytes", Help: "Bytes of the bundles that are kept by their digest."}),
			failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "gatehouse_bundle_archive_failures_total", Help: "Bundles that could not be kept by their digest."}),
		}}
	p.Bytes = cmp.Or(p.Bytes, defaultArchive)
	if cfg.Registerer == nil {
		return p, nil
	}
	return p, errors.Join(cfg.Registerer.Register(p.metrics.bytes), cfg.Registerer.Register(p.metrics.failed))
}

// of is what it takes to keep a delivery's bundle. A nil archiver keeps nothing.
func (p *archiver) of(c *candidate, d *delivery) []archivePart {
	switch {
	case p == nil:
		return nil
	case d.bundle != nil && c.Bundle == d.bundle && len(d.parts) > 0:
		return d.parts
	}
	return []archivePart{wholePart(c.Digest(), d.files)}
}

// wholePart is a bundle with the files that its digest is made of.
func wholePart(digest string, files map[string][]byte) archivePart {
	wanted := map[string][]byte{}
	for name, content := range files {
		if bundle.Wanted(name) {
			wanted[name] = content
		}
	}
	return archivePart{digest: digest, files: wanted}
}

// activated queues a source's bundle for writing, and drops the candidate's reference to its files. It does not wait.
func (p *archiver) activated(source string, c *candidate) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := p.active[source]; last != "" && last != c.Digest() {
		p.pending = append(p.pending, archiveJob{digest: last}) // it was active until now
	}
	p.active[source] = c.Digest()
	p.pending = append(p.pending, archiveJob{c.Digest(), c.archived})
	c.archived = nil
	for len(p.pending) > maxPending {
		p.failed(p.pending[0].digest, errors.New("too many are waiting to be written"))
		p.pending = p.pending[1:]
	}
	select {
	case p.wake <- struct{}{}:
	default: // it will see this one too
	}
}

// remembered says which bundles can be rolled back to.
func (p *archiver) remembered(history []*activation) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.others = nil
	for _, a := range history {
		for _, r := range a.list {
			if r != nil {
				p.others = append(p.others, r.Info.Digest)
			}
		}
	}
}

func (p *archiver) failed(digest string, err error) {
	p.metrics.failed.Inc()
	p.logger.Error("a policy bundle is not kept by its digest: its decisions can only be explained while it is active", zap.String("digest", digest), zap.Error(err))
}

// run writes pending bundles and removes those that are too old, until ctx ends and everything is written.
func (p *archiver) run(ctx context.Context) {
	p.sweep()
	tick := time.NewTicker(archiveEvery)
	defer tick.Stop()
	for {
		p.write()
		p.prune()
		select {
		case <-ctx.Done():
			p.write()
			return
		case <-p.wake:
		case <-tick.C:
		}
	}
}

// write keeps what is pending.
func (p *archiver) write() {
	for {
		p.mu.Lock()
		if len(p.pending) == 0 {
			p.mu.Unlock()
			return
		}
		job := p.pending[0]
		p.pending = p.pending[1:]
		p.mu.Unlock()
		if err := p.keep(job); err != nil {
			p.failed(job.digest, err)
		}
	}
}

func (p *archiver) keep(job archiveJob) error {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return err
	}
	for _, part := range job.parts {
		if _, err := os.Stat(archiveFile(p.Dir, part.digest)); err == nil {
			continue
		}
		if err := durable.Write(archiveFile(p.Dir, part.digest), 0o600, part.pack); err != nil {
			return err
		}
	}
	return p.renew(job.digest)
}

// pack writes the file.
func (part *archivePart) pack(to io.Writer) error {
	files := part.files
	if part.before != "" {
		files = maps.Clone(files)
		files[beforeFile] = []byte(part.before)
	}
	return tarball.Pack(to, files)
}

// renew notes that a bundle is active, and with it those that it was made of by deltas.
func (p *archiver) renew(digest string) error {
	now := p.clock()
	for range maxDeltas + 1 {
		file := archiveFile(p.Dir, digest)
		if err := os.Chtimes(file, now, now); err != nil {
			return err
		}
		before, err := beforeOf(file)
		if err != nil || before == "" {
			return err
		}
		digest = before
	}
	return nil
}

// beforeOf is the digest of the bundle that a kept delta changes; "" for a file with a whole bundle. Its file is the first of the tarball's.
func beforeOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		return "", err
	}
	archive := tar.NewReader(zipped)
	header, err := archive.Next()
	if err != nil || header.Name != beforeFile {
		return "", err
	}
	digest, err := io.ReadAll(io.LimitReader(archive, 2*64))
	return string(digest), err
}

// prune renews what is active, and removes what was not for too long, then the oldest until the rest is small enough.
func (p *archiver) prune() {
	p.mu.Lock()
	active := slices.Collect(maps.Values(p.active))
	others := slices.Clone(p.others)
	p.mu.Unlock()
	for _, digest := range active {
		_ = p.renew(digest) // one that could not be written was told of
	}
	files, total := p.list()
	keep := p.lineages(active)
	mayStay := p.lineages(others)
	for _, f := range files {
		old := p.clock().Sub(f.ModTime()) > p.For && !mayStay[f.Name()]
		if keep[f.Name()] || !old && total <= p.Bytes {
			continue
		}
		if err := os.Remove(filepath.Join(p.Dir, f.Name())); err != nil {
			p.logger.Warn("removing a bundle that was kept by its digest", zap.String("file", f.Name()), zap.Error(err))
			continue
		}
		total -= f.Size()
	}
	p.metrics.bytes.Set(float64(total))
}

// lineages are the files of bundles, with those of the bundles that they were made of.
func (p *archiver) lineages(digests []string) map[string]bool {
	files := map[string]bool{}
	for _, digest := range digests {
		for range maxDeltas + 1 {
			file := archiveFile(p.Dir, digest)
			files[filepath.Base(file)] = true
			before, err := beforeOf(file)
			if err != nil || before == "" {
				break
			}
			digest = before
		}
	}
	return files
}

// sweep removes what a crash left half written.
func (p *archiver) sweep() {
	left, _ := filepath.Glob(filepath.Join(p.Dir, "*"+archiveEnding+durable.Ending)) // the pattern is good, whatever the folder is called: it matches or not
	for _, file := range left {
		_ = os.Remove(file) // it is of no use, and of no harm
	}
}

// list are the files, the oldest first, and how large they are together.
func (p *archiver) list() (files []fs.FileInfo, total int64) {
	entries, err := os.ReadDir(p.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.logger.Warn("looking at the bundles that are kept by their digest", zap.Error(err))
	}
	for _, e := range entries {
		digest, ok := strings.CutSuffix(e.Name(), archiveEnding)
		info, err := e.Info()
		if ok && isDigest(digest) && err == nil && info.Mode().IsRegular() {
			files, total = append(files, info), total+info.Size()
		}
	}
	slices.SortStableFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	return files, total
}

func archiveFile(dir, digest string) string { return filepath.Join(dir, digest+archiveEnding) }

func isDigest(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 32 && strings.ToLower(text) == text
}

// ReadArchived reads the bundle with this digest, as Config.Archive keeps it in dir, under a name of the caller's. The error is
// fs.ErrNotExist where it is not kept, or not any more. What is read has the digest, or it is an error.
func ReadArchived(dir, name, digest string, limits bundle.Limits) (*bundle.Bundle, error) {
	b, err := readArchived(dir, name, digest, limits, maxDeltas+1)
	if err == nil && b.Digest() != digest {
		err = fmt.Errorf("%w: its digest is %s", errDamaged, b.Digest())
	}
	if err != nil {
		return nil, fmt.Errorf("reading the kept bundle %s: %w", digest, err)
	}
	return b, nil
}

func readArchived(dir, name, digest string, limits bundle.Limits, depth int) (*bundle.Bundle, error) {
	if !isDigest(digest) || depth == 0 {
		return nil, fs.ErrNotExist
	}
	text, err := readLimited(archiveFile(dir, digest), limits)
	if err != nil {
		return nil, err
	}
	files, _, err := tarball.Unpack(name, bytes.NewReader(text), limits)
	if err != nil {
		return nil, err
	}
	before, delta := files[beforeFile]
	if !delta {
		return bundle.Read(name, tarball.Tree(files), limits)
	}
	base, err := readArchived(dir, name, string(before), limits, depth-1)
	if err != nil {
		return nil, err
	}
	return base.Patch(files[manifestFile], files[bundle.DeltaFile])
}

// readLimited reads a file that is not larger than a bundle may be.
func readLimited(file string, limits bundle.Limits) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	limit := limits.OrDefault().Total + 1<<20
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return text, err
}
