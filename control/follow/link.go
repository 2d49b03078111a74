package follow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"gatehouse/control/api"
	"gatehouse/control/wire"
	"gatehouse/directory"
	"gatehouse/durable"
	"gatehouse/panics"
)

// link is the connection to control, from one session to the next.
type link struct {
	follower  *Follower
	publish   func(*directory.Snapshot) error
	transport *http.Transport
	shown     *identity // with whose certificate transport was made
	renewed   time.Time // when a renewal was tried last
}

func (l *link) close() {
	l.follower.shared.Store(nil)
	if l.transport != nil {
		l.transport.CloseIdleConnections()
	}
	l.follower.copy.close()
}

// errRenew ends a stream whose certificate is to be renewed.
var errRenew = errors.New("the certificate is to be renewed")

// renewEvery is how long to wait after a renewal that failed.
const renewEvery = time.Hour

// session connects and follows until something fails or ctx ends. It never returns nil.
func (l *link) session(ctx context.Context) error {
	f := l.follower
	if f.identity == nil || !f.with.Clock().Before(f.identity.expires()) {
		if f.identity != nil && !f.again() {
			return fmt.Errorf("the certificate of this edge expired at %s: put a new token of gatehouse control enroll into control.enroll_token_file", f.identity.expires().Format(time.RFC3339))
		}
		if err := f.enroll(ctx); err != nil {
			return err
		}
	}
	c, err := l.client()
	if err != nil {
		return err
	}
	if l.renewal(f.identity) {
		l.renewed = f.with.Clock()
		if err := f.renew(ctx, c); err != nil {
			f.logger.Warn("the certificate stays as it is", zap.Time("expires", f.identity.expires()), zap.Error(err))
		} else if c, err = l.client(); err != nil {
			return err
		}
	}
	err = l.follow(ctx, c)
	if code := connect.CodeOf(err); (code == connect.CodePermissionDenied || code == connect.CodeUnauthenticated) && f.again() {
		if again := f.enroll(ctx); again != nil {
			return errors.Join(err, again)
		}
	}
	return err
}

// client speaks to control with the edge's certificate.
func (l *link) client() (api.EdgeServiceClient, error) {
	f := l.follower
	if l.transport == nil || l.shown != f.identity {
		if l.transport != nil {
			l.transport.CloseIdleConnections()
		}
		var err error
		if l.transport, err = f.transport(f.identity); err != nil {
			return nil, err
		}
		l.shown = f.identity
		f.shared.Store(l.transport)
	}
	return client(l.transport, f.with.URL), nil
}

// renewal reports whether the certificate is to be renewed now.
func (l *link) renewal(id *identity) bool {
	now := l.follower.with.Clock()
	return id.due(now) && now.Sub(l.renewed) > renewEvery
}

// follow is one stream.
func (l *link) follow(ctx context.Context, c api.EdgeServiceClient) error {
	f := l.follower
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	silence := time.AfterFunc(silentAfter, func() { stop(errors.New("control said nothing for too long")) }) // goroutine: it only cancels
	defer silence.Stop()
	s := &stream{link: l, stream: c.Sync(ctx)}
	// The transport looks at ctx only between parts of the request, of which there may be none for long.
	defer context.AfterFunc(ctx, func() { _ = s.stream.CloseRequest() })() // goroutine: it closes one half of the stream, nothing else
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer stop(nil)
	defer func() { // before the others: the stream's goroutines end with it
		stop(nil)
		if s.incoming != nil {
			_ = s.file.Close() // is thrown away
		}
		_ = s.stream.CloseRequest()
		_ = s.stream.CloseResponse()
	}()
	is := f.state()
	hello := &api.Hello{Version: f.with.Version, Degraded: is.Degraded, Policy: is.Policy, WithoutDirectory: f.with.WithoutDirectory, WithoutPolicy: is.WithoutPolicy}
	if f.current != nil && !f.doubt {
		digest, err := hex.DecodeString(f.current.Digest())
		if err != nil {
			return err
		}
		hello.Epoch, hello.Revision, hello.Digest = f.epoch, f.current.Revision(), digest
	}
	if err := s.say(&api.SyncRequest{Message: &api.SyncRequest_Hello{Hello: hello}}); err != nil {
		return err
	}
	helpers.Go(func() {
		defer panics.Recover("telling control that this edge is alive")
		s.alive(ctx, stop, f.identity)
	})
	for {
		m, err := s.stream.Receive()
		if err != nil {
			if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
				return context.Cause(ctx)
			}
			return bare(err)
		}
		silence.Reset(silentAfter)
		if err := s.take(m); err != nil {
			return err
		}
	}
}

// bare is an error of a stream, never nil.
func bare(err error) error {
	if err == nil {
		return errors.New("control ended the stream")
	}
	return err
}

// stream is one stream and what has come of it.
type stream struct {
	link   *link
	stream *connect.BidiStreamForClient[api.SyncRequest, api.SyncResponse]
	mu     sync.Mutex // held while something is sent

	incoming *api.Snapshot // a directory that is coming; nil: none
	file     *os.File
	sum      hash.Hash
	size     int64
}

func (s *stream) say(m *api.SyncRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stream.Send(m); err != nil {
		// The stream has ended: why, Receive knows.
		if _, why := s.stream.Receive(); why != nil {
			return why
		}
		return err
	}
	return nil
}

// alive tells control now and then that this edge is alive, and ends the stream where the certificate is to be renewed.
func (s *stream) alive(ctx context.Context, stop context.CancelCauseFunc, id *identity) {
	f := s.link.follower
	every := aliveEvery
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			every = min(2*every, aliveEvery)
		case <-f.news:
			every = newsEvery
		}
		tick.Reset(every)
		is := f.state()
		s.mu.Lock()
		err := s.stream.Send(&api.SyncRequest{Message: &api.SyncRequest_Alive{Alive: &api.Alive{Degraded: is.Degraded, Policy: is.Policy, WithoutPolicy: is.WithoutPolicy,
			Counts: &api.PolicyCounts{Decisions: is.Counts.Decisions, Denied: is.Counts.Denied, Errors: is.Counts.Errors, Microseconds: uint64(is.Counts.Took.Microseconds())}}}})
		s.mu.Unlock()
		if err != nil {
			return // the stream has ended, and Receive says why
		}
		if s.link.renewal(id) {
			stop(errRenew) // the next session begins with it
			return
		}
	}
}

// take takes one message in.
func (s *stream) take(m *api.SyncResponse) error {
	f := s.link.follower
	started := time.Now()
	switch is := m.GetMessage().(type) {
	case *api.SyncResponse_Changes:
		if s.incoming != nil {
			return errors.New("changes came in the middle of a directory")
		}
		if err := f.apply(is.Changes, s.link.publish); err != nil {
			return s.report(is.Changes.GetTo(), err)
		}
		return s.applied(started)
	case *api.SyncResponse_Head:
		return s.head(is.Head)
	case *api.SyncResponse_Snapshot:
		return s.begin(is.Snapshot)
	case *api.SyncResponse_Chunk:
		return s.chunk(is.Chunk.GetData(), started)
	}
	return nil // of a newer control: what matters is numbered, so that a gap shows
}

// report tells control why something could not be applied, and returns that.
func (s *stream) report(revision uint64, err error) error {
	if errors.Is(err, context.Canceled) {
		return err // this edge is ending, or its configuration is
	}
	_ = s.say(&api.SyncRequest{Message: &api.SyncRequest_Applied{Applied: &api.Applied{Revision: revision, Error: err.Error()}}}) // the session ends anyway
	return fmt.Errorf("revision %d could not be applied: %w", revision, err)
}

// applied tells control what is in force and on disk.
func (s *stream) applied(started time.Time) error {
	f := s.link.follower
	digest, err := hex.DecodeString(f.current.Digest())
	if err != nil {
		return err
	}
	f.confirm()
	return s.say(&api.SyncRequest{Message: &api.SyncRequest_Applied{Applied: &api.Applied{Revision: f.current.Revision(), Digest: digest,
		TookUs: time.Since(started).Microseconds(), Error: f.status.Load().CopyError}}})
}

// head compares where control is with what is here.
func (s *stream) head(h *api.Head) error {
	f := s.link.follower
	if s.incoming != nil {
		return nil
	}
	if f.with.WithoutDirectory {
		f.confirm()
		return nil
	}
	if f.current == nil || h.GetEpoch() != f.epoch || h.GetRevision() != f.current.Revision() || hex.EncodeToString(h.GetDigest()) != f.current.Digest() {
		f.doubt = true
		return s.report(h.GetRevision(), errGap)
	}
	if f.copy.tail == nil { // the copy could not be written, or was damaged
		f.keep(f.copy.rewrite(f.current, f.epoch))
		return s.applied(time.Now())
	}
	f.confirm()
	return nil
}

// begin prepares for a directory that is coming.
func (s *stream) begin(m *api.Snapshot) error {
	if s.incoming != nil || m.GetSize() <= 0 || m.GetSize() > wire.MaxSnapshot || m.GetRevision() == 0 {
		return errors.New("control announced a directory of no possible size or revision")
	}
	f, err := os.OpenFile(filepath.Join(s.link.follower.copy.dir, incoming), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	s.incoming, s.file, s.sum, s.size = m, f, sha256.New(), 0
	return nil
}

// chunk takes a part of the directory, and puts it in force with the last one.
func (s *stream) chunk(data []byte, started time.Time) (err error) {
	if s.incoming == nil || len(data) == 0 || s.size+int64(len(data)) > s.incoming.GetSize() {
		return errors.New("control sent more of a directory than it announced")
	}
	defer func() {
		if err != nil {
			_ = s.file.Close() // is thrown away
		}
	}()
	if _, err := s.file.Write(data); err != nil {
		return err
	}
	s.sum.Write(data)
	if s.size += int64(len(data)); s.size < s.incoming.GetSize() {
		return nil
	}
	m, f := s.incoming, s.link.follower
	if sum := s.sum.Sum(nil); string(sum) != string(m.GetSha256()) {
		return s.report(m.GetRevision(), errors.New("the directory arrived altered"))
	}
	if err := errors.Join(s.file.Sync(), s.file.Close()); err != nil {
		return err
	}
	if err := durable.SyncFolder(f.copy.dir); err != nil {
		return err
	}
	s.incoming = nil
	if err := f.replace(m, filepath.Join(f.copy.dir, incoming), s.link.publish); err != nil {
		return s.report(m.GetRevision(), err)
	}
	return s.applied(started)
}
