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

// Archive configures where every bundle that was active is kept by digest, so that its decisions can be explained and replayed later.
type Archive struct {
	Dir   string        // created if missing; empty: nothing is kept
	For   time.Duration // since it was last active
	Bytes int64         // of all files together; the oldest are removed first, active ones never; default 256 MiB
}

// An archiver keeps bundles as files named by the digest that the decision log records: a tarball of the files that the digest covers. A
// bundle made by a delta is kept as that delta with the previous bundle's digest. Files are written to a temporary name and renamed; the
// modification time says when the bundle was last active, to within archiveEvery.
type archiver struct {
	Archive
	logger  *zap.Logger
	clock   func() time.Time
	metrics archiveMetrics
	wake    chan struct{}

	mu      sync.Mutex        // guards what is below
	pending []archiveJob      // jobs to write; at most maxPending
	active  map[string]string // digest of the active bundle by source
	others  []string          // digests available for rollback
}

const (
	archiveEnding  = ".tar.gz"
	archiveEvery   = 10 * time.Minute // how often times are renewed and expired files removed
	maxPending     = 8                // bundles waiting to be written: with more the disk is stuck, and the oldest is dropped
	baseFile       = ".before"        // in a delta's file: the digest of the bundle that it changes
	defaultArchive = 256 << 20
)

// archiveJob is a bundle to archive.
type archiveJob struct {
	digest string
	parts  []archivePart // to be written in this order; none: only the file's time is renewed
}

// archivePart is one file: a bundle's files, or a delta's files and the digest that it applies to.
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

// of returns what is needed to archive a delivery's bundle. A nil archiver keeps nothing.
func (p *archiver) of(c *candidate, d *delivery) []archivePart {
	switch {
	case p == nil:
		return nil
	case d.bundle != nil && c.Bundle == d.bundle && len(d.parts) > 0:
		return d.parts
	}
	return []archivePart{wholePart(c.Digest(), d.files)}
}

// wholePart returns a bundle's files that its digest covers.
func wholePart(digest string, files map[string][]byte) archivePart {
	wanted := map[string][]byte{}
	for name, content := range files {
		if bundle.Wanted(name) {
			wanted[name] = content
		}
	}
	return archivePart{digest: digest, files: wanted}
}

// activated queues a source's bundle for writing, and drops the candidate's reference to its files. It does not block.
func (p *archiver) activated(source string, c *candidate) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := p.active[source]; last != "" && last != c.Digest() {
		p.pending = append(p.pending, archiveJob{digest: last}) // the previous bundle was active until now
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
	default: // run is notified already and will see this job too
	}
}

// setAvailable sets the bundles that are available for rollback.
func (p *archiver) setAvailable(history []*activation) {
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

// run writes pending bundles and removes expired ones. When ctx ends it writes what is pending and returns.
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

// write archives the pending bundles.
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

func (part *archivePart) pack(to io.Writer) error {
	files := part.files
	if part.before != "" {
		files = maps.Clone(files)
		files[baseFile] = []byte(part.before)
	}
	return tarball.Pack(to, files)
}

// renew records that a bundle is active now, for its file and those of the bundles that its deltas apply to.
func (p *archiver) renew(digest string) error {
	now := p.clock()
	for range maxDeltas + 1 {
		file := archiveFile(p.Dir, digest)
		if err := os.Chtimes(file, now, now); err != nil {
			return err
		}
		before, err := baseOf(file)
		if err != nil || before == "" {
			return err
		}
		digest = before
	}
	return nil
}

// baseOf returns the digest that an archived delta applies to; "" for a whole bundle. It is the tarball's first file.
func baseOf(file string) (string, error) {
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
	if err != nil || header.Name != baseFile {
		return "", err
	}
	digest, err := io.ReadAll(io.LimitReader(archive, 2*64))
	return string(digest), err
}

// prune renews what is active, then removes expired files, then the oldest until the total is within the limit.
func (p *archiver) prune() {
	p.mu.Lock()
	active := slices.Collect(maps.Values(p.active))
	others := slices.Clone(p.others)
	p.mu.Unlock()
	for _, digest := range active {
		_ = p.renew(digest) // a failure to write it was reported
	}
	files, total := p.list()
	keep := p.withBases(active)
	mayStay := p.withBases(others)
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

// withBases returns the files of bundles, including those that their deltas apply to.
func (p *archiver) withBases(digests []string) map[string]bool {
	files := map[string]bool{}
	for _, digest := range digests {
		for range maxDeltas + 1 {
			file := archiveFile(p.Dir, digest)
			files[filepath.Base(file)] = true
			before, err := baseOf(file)
			if err != nil || before == "" {
				break
			}
			digest = before
		}
	}
	return files
}

// sweep removes partly written files left by a crash.
func (p *archiver) sweep() {
	left, _ := filepath.Glob(filepath.Join(p.Dir, "*"+archiveEnding+durable.Ending)) // the only error is a bad pattern, and this one is valid
	for _, file := range left {
		_ = os.Remove(file) // a file that stays is harmless
	}
}

// list returns the files, oldest first, and their total size.
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

// ReadArchived reads the bundle with this digest from Config.Archive's directory, and gives it this name. The error is fs.ErrNotExist if it
// is not kept, or no longer. Contents with another digest are an error.
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
	before, delta := files[baseFile]
	if !delta {
		return bundle.Read(name, tarball.Tree(files), limits)
	}
	base, err := readArchived(dir, name, string(before), limits, depth-1)
	if err != nil {
		return nil, err
	}
	return base.Patch(files[manifestFile], files[bundle.DeltaFile])
}

// readLimited reads a file no larger than a bundle may be.
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
