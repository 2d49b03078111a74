package control

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"gatehouse/control/api"
	"gatehouse/control/authority"
	"gatehouse/control/store"
	"gatehouse/control/wire"
	"gatehouse/panics"
)

type edgeService struct{ *Server }

// Why a stream ends.
var (
	errReplaced = connect.NewError(connect.CodeAborted, errors.New("this edge has opened another connection; where two machines have the same state_dir, give each its own"))
	errRevoked  = connect.NewError(connect.CodePermissionDenied, errors.New("this edge is revoked: enroll it anew, with a new token"))
	errStopping = connect.NewError(connect.CodeUnavailable, errors.New("control is stopping"))
	errExpired  = connect.NewError(connect.CodeUnauthenticated, errors.New("the certificate of this connection has expired"))
	errSilent   = connect.NewError(connect.CodeDeadlineExceeded, errors.New("the edge said nothing for too long"))
)

// Times of a stream. An edge says something at least every AliveEvery, and control every headEvery.
const (
	headEvery    = 10 * time.Second
	silentAfter  = 45 * time.Second
	helloWithin  = 10 * time.Second
	coalesce     = 20 * time.Millisecond // between two messages of changes: what comes meanwhile goes along
	maxChanges   = 1 << 20               // bytes of one message of changes, exceeded by at most one revision
	maxDegraded  = 20                    // reasons of an edge that are kept
	maxReason    = 500                   // bytes of each
	smallestFile = 64 << 10              // an estimate of a directory's size that is not known yet
)

// refuse logs that an edge is refused.
func (s *edgeService) refuse(ctx context.Context, what string, err error) error {
	p := peerOf(ctx)
	if !s.limits.refused(p.address) {
		return errFlood
	}
	s.logger.Warn("an edge was refused", zap.String("at", what), zap.String("peer", p.address), zap.String("edge", p.edge), zap.Error(err))
	return failure(err)
}

func (s *edgeService) Enroll(ctx context.Context, r *connect.Request[api.EnrollRequest]) (*connect.Response[api.EnrollResponse], error) {
	request, err := authority.ParseRequest(r.Msg.GetRequest())
	if err != nil {
		return nil, s.refuse(ctx, "enrolment", err)
	}
	version := short(r.Msg.GetVersion())
	edge, err := s.store.Enroll(ctx, r.Msg.GetToken(), request.Key, r.Msg.GetName(), version, s.with.Clock().Add(authority.EdgeValid))
	if err != nil {
		return nil, s.refuse(ctx, "enrolment", err)
	}
	certificate, err := s.authority.Sign(request, edge.ID)
	if err != nil {
		return nil, failure(err)
	}
	s.logger.Info("an edge is enrolled", zap.String("edge", edge.ID), zap.String("name", edge.Name), zap.String("environment", edge.Environment), zap.String("peer", peerOf(ctx).address))
	return connect.NewResponse(&api.EnrollResponse{Certificate: certificate, Authority: s.authority.Certificate(), Edge: edge.ID, Environment: edge.Environment}), nil
}

// known is the edge of a request's certificate.
func (s *edgeService) known(ctx context.Context, what string) (store.Edge, error) {
	p := peerOf(ctx)
	if p.edge == "" {
		return store.Edge{}, s.refuse(ctx, what, fmt.Errorf("%w: the connection shows no edge's certificate", store.ErrRefused))
	}
	if !s.with.Clock().Before(p.expires) { // the connection is older than that
		return store.Edge{}, s.refuse(ctx, what, fmt.Errorf("%w: the certificate of this connection has expired", store.ErrRefused))
	}
	edge, err := s.store.Edge(ctx, p.edge)
	if err != nil {
		return store.Edge{}, s.refuse(ctx, what, err)
	}
	return edge, nil
}

func (s *edgeService) Renew(ctx context.Context, r *connect.Request[api.RenewRequest]) (*connect.Response[api.RenewResponse], error) {
	edge, err := s.known(ctx, "renewal")
	if err != nil {
		return nil, err
	}
	request, err := authority.ParseRequest(r.Msg.GetRequest())
	if err != nil {
		return nil, s.refuse(ctx, "renewal", err)
	}
	certificate, err := s.authority.Sign(request, edge.ID)
	if err != nil {
		return nil, failure(err)
	}
	if err := s.store.Renewed(ctx, edge.ID, s.with.Clock().Add(authority.EdgeValid)); err != nil {
		return nil, failure(err)
	}
	return connect.NewResponse(&api.RenewResponse{Certificate: certificate, Authority: s.authority.Certificate()}), nil
}

// Sync is one edge's stream: this goroutine sends, another receives.
func (s *edgeService) Sync(ctx context.Context, stream *connect.BidiStream[api.SyncRequest, api.SyncResponse]) error {
	edge, err := s.known(ctx, "sync")
	if err != nil {
		return err
	}
	e, err := s.store.Environment(edge.Environment)
	if err != nil {
		return failure(err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	x := &session{stop: stop, edge: edge}
	p := &push{Server: s.Server, stream: stream, environment: e, session: x, greeted: make(chan struct{}), heard: make(chan struct{}, 1), say: rate.NewLimiter(0.1, 10)}
	go p.receive(stop)                                                                      // ends with the stream: its body is closed when this function has returned
	expires := time.AfterFunc(time.Until(peerOf(ctx).expires), func() { stop(errExpired) }) // goroutine: it only cancels
	defer expires.Stop()
	select {
	case <-p.greeted:
	case <-time.After(helloWithin):
		return errSilent
	case <-s.stopping:
		return errStopping
	case <-ctx.Done():
		return ended(ctx)
	}
	if s.fleet.join(x) {
		s.logger.Warn("an edge opened a second connection, and the first one ends", zap.String("edge", edge.ID), zap.String("name", edge.Name), zap.String("peer", peerOf(ctx).address))
	}
	defer s.fleet.leave(x)
	// It may have been revoked between the look at the store and join, which is when a revocation can cut it.
	if _, err := s.known(ctx, "sync"); err != nil {
		return err
	}
	return p.run(ctx)
}

// ended is why a stream's context has ended.
func ended(ctx context.Context) error {
	err := context.Cause(ctx)
	if about, ok := errors.AsType[*connect.Error](err); ok {
		return about
	}
	return failure(err)
}

// push brings one edge up to date, and keeps it there.
type push struct {
	*Server
	stream      *connect.BidiStream[api.SyncRequest, api.SyncResponse]
	environment *store.Environment
	session     *session
	greeted     chan struct{} // closed once where it stands is known
	heard       chan struct{} // signals that the edge said something

	say *rate.Limiter // for the log

	at    uint64 // the revision that the edge has been sent
	where *api.Hello
}

// receive reads what the edge says until the stream ends.
func (p *push) receive(stop context.CancelCauseFunc) {
	defer panics.Recover("hearing an edge")
	for first := true; ; first = false {
		m, err := p.stream.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = connect.NewError(connect.CodeCanceled, errors.New("the edge has left"))
			}
			stop(err)
			return
		}
		switch is := m.GetMessage().(type) {
		case *api.SyncRequest_Hello:
			if !first {
				stop(connect.NewError(connect.CodeInvalidArgument, errors.New("a second hello")))
				return
			}
			p.greet(is.Hello)
			close(p.greeted)
		case *api.SyncRequest_Applied:
			if first {
				stop(connect.NewError(connect.CodeInvalidArgument, errors.New("the first message is hello")))
				return
			}
			p.applied(is.Applied)
		case *api.SyncRequest_Alive:
			p.fleet.said(p.session, p.with.Clock(), func(e *store.Edge) {
				e.Degraded, e.Policy, e.WithoutPolicy = reasons(is.Alive.GetDegraded()), short(is.Alive.GetPolicy()), is.Alive.GetWithoutPolicy()
				n := is.Alive.GetCounts()
				e.Counts = store.Counts{Decisions: n.GetDecisions(), Denied: n.GetDenied(), Errors: n.GetErrors(), Microseconds: n.GetMicroseconds()}
			})
		}
		select {
		case p.heard <- struct{}{}:
		default: // signalled already
		}
	}
}

// applied records what an edge has applied. A digest that is not that of the revision is an error whatever the edge says.
func (p *push) applied(a *api.Applied) {
	problem, head := short(a.GetError()), p.environment.Snapshot()
	switch {
	case problem != "":
	case a.GetRevision() > head.Revision():
		problem = "it says that it has a revision that does not exist"
	case a.GetRevision() == head.Revision() && head.Digest() != hex.EncodeToString(a.GetDigest()):
		problem = "its directory is another one than control's"
	}
	if problem != "" && p.say.Allow() {
		p.logger.Error("an edge could not apply a revision", zap.String("edge", p.session.edge.ID), zap.String("name", p.session.edge.Name), zap.Uint64("revision", a.GetRevision()), zap.String("error", problem))
	}
	p.fleet.said(p.session, p.with.Clock(), func(e *store.Edge) {
		if e.Error = problem; problem == "" {
			e.Revision = a.GetRevision()
		}
	})
}

// short bounds a text of an edge.
func short(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "") // cut within a character, it could be sent to nobody
}

func reasons(list []string) (out []string) {
	for _, r := range list[:min(len(list), maxDegraded)] {
		out = append(out, short(r))
	}
	return out
}

// greet takes in where the edge stands.
func (p *push) greet(h *api.Hello) {
	p.where = h
	x := &p.session.edge // nobody else knows the session yet
	x.Version, x.Degraded, x.LastSeen, x.Error, x.Revision = short(h.GetVersion()), reasons(h.GetDegraded()), p.with.Clock(), "", 0
	x.Policy, x.WithoutDirectory, x.WithoutPolicy = short(h.GetPolicy()), h.GetWithoutDirectory(), h.GetWithoutPolicy()
}

// run sends what the edge lacks, and then what changes.
func (p *push) run(ctx context.Context) error {
	if p.where.GetWithoutDirectory() {
		if err := p.head(); err != nil {
			return err
		}
	} else if err := p.start(ctx); err != nil {
		return err
	}
	beat := time.NewTicker(headEvery - time.Duration(rand.Int64N(int64(headEvery/5))))
	defer beat.Stop()
	silent := time.NewTimer(silentAfter)
	defer silent.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	var pausing <-chan time.Time
	for {
		var wake <-chan struct{}
		if pausing == nil && !p.where.GetWithoutDirectory() {
			list, more, err := p.environment.Since(ctx, p.at, maxChanges)
			if err != nil {
				return failure(err)
			}
			if len(list) > 0 {
				if err := p.changes(list); err != nil {
					return err
				}
				pause.Reset(coalesce)
				pausing = pause.C
			}
			wake = more
		}
		select {
		case <-wake:
		case <-pausing:
			pausing = nil
		case <-beat.C:
			if err := p.head(); err != nil {
				return err
			}
		case <-p.heard:
			silent.Reset(silentAfter)
		case <-silent.C:
			return errSilent
		case <-p.stopping:
			return errStopping
		case <-ctx.Done():
			return ended(ctx)
		}
	}
}

// start brings the edge to a revision from which changes can follow: its own one, or that of a whole directory.
func (p *push) start(ctx context.Context) error {
	h, head := p.where, p.environment.Snapshot()
	known := false
	if h.GetEpoch() == p.store.Epoch() && h.GetRevision() <= head.Revision() {
		var err error
		if known, err = p.environment.Known(ctx, h.GetEpoch(), h.GetRevision(), h.GetDigest()); err != nil {
			return failure(err)
		}
	} else if h.GetEpoch() == p.store.Epoch() {
		p.logger.Warn("an edge knows a revision that this database does not have: was an older one put back?", zap.String("edge", p.session.edge.ID),
			zap.Uint64("its", h.GetRevision()), zap.Uint64("ours", head.Revision()))
	}
	if known {
		behind, err := p.environment.Behind(ctx, h.GetRevision())
		if err != nil {
			return failure(err)
		}
		if behind <= max(smallestFile, head.Stats().Bytes/4) {
			p.at = h.GetRevision()
			p.fleet.said(p.session, p.with.Clock(), func(e *store.Edge) { e.Revision = max(e.Revision, p.at) })
			return p.head()
		}
	}
	f, err := p.snapshots.of(ctx, p.environment, p.store.Epoch())
	if err != nil {
		return failure(err)
	}
	defer p.snapshots.release(f)
	return p.whole(ctx, f)
}

// whole sends a directory.
func (p *push) whole(ctx context.Context, f *wholeFile) error {
	digest, err := hex.DecodeString(f.digest)
	if err != nil {
		return failure(err)
	}
	if err := p.send(&api.SyncResponse{Message: &api.SyncResponse_Snapshot{Snapshot: &api.Snapshot{Epoch: f.epoch, Revision: f.revision, Digest: digest, Size: f.size, Sha256: f.sum}}}); err != nil {
		return err
	}
	buffer := make([]byte, min(wire.ChunkSize, f.size))
	for at := int64(0); at < f.size; {
		n, err := f.file.ReadAt(buffer[:min(int64(len(buffer)), f.size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) || n == 0 {
			return failure(fmt.Errorf("reading a snapshot: %w", err))
		}
		if ctx.Err() != nil {
			return ended(ctx)
		}
		if err := p.send(&api.SyncResponse{Message: &api.SyncResponse_Chunk{Chunk: &api.Chunk{Data: buffer[:n]}}}); err != nil {
			return err
		}
		at += int64(n)
	}
	p.at = f.revision
	return nil
}

func (p *push) changes(list []store.Change) error {
	last := list[len(list)-1]
	m := &api.Changes{Epoch: p.store.Epoch(), From: p.at, To: last.Revision, Digest: last.Digest}
	for _, c := range list {
		m.Ops = append(m.Ops, c.Ops)
	}
	if err := p.send(&api.SyncResponse{Message: &api.SyncResponse_Changes{Changes: m}}); err != nil {
		return err
	}
	p.at = last.Revision
	return nil
}

// head sends where the edge should stand, unless changes are on their way.
func (p *push) head() error {
	if p.where.GetWithoutDirectory() { // a heartbeat
		return p.send(&api.SyncResponse{Message: &api.SyncResponse_Head{Head: &api.Head{Epoch: p.store.Epoch()}}})
	}
	now := p.environment.Snapshot()
	if now.Revision() != p.at {
		return nil
	}
	digest, err := hex.DecodeString(now.Digest())
	if err != nil {
		return failure(err)
	}
	return p.send(&api.SyncResponse{Message: &api.SyncResponse_Head{Head: &api.Head{Epoch: p.store.Epoch(), Revision: p.at, Digest: digest}}})
}

func (p *push) send(m *api.SyncResponse) error {
	if err := p.stream.Send(m); err != nil {
		return connect.NewError(connect.CodeCanceled, fmt.Errorf("the edge has left: %w", err))
	}
	return nil
}
