package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"gatehouse/control/authority"
	"gatehouse/control/store"
	"gatehouse/directory"
)

// limits bound how often a client may ask.
type limits struct {
	mu      sync.Mutex
	byToken map[string]*rate.Limiter // guarded by mu
	byPeer  map[string]*rate.Limiter // of requests that were refused; guarded by mu
}

func newLimits() *limits {
	return &limits{byToken: map[string]*rate.Limiter{}, byPeer: map[string]*rate.Limiter{}}
}

// Requests a second of one token, refused ones of one peer, and how many may come at once.
const (
	tokenRate   = 500
	tokenBurst  = 1000
	refusedRate = 5
	refusedMax  = 20
	maxLimited  = 10_000 // limiters that are kept
)

// allow takes one from a limiter of a bounded map. The caller holds mu.
func allow(all map[string]*rate.Limiter, key string, every rate.Limit, burst int) bool {
	one := all[key]
	if one == nil {
		if len(all) >= maxLimited {
			clear(all)
		}
		one = rate.NewLimiter(every, burst)
		all[key] = one
	}
	return one.Allow()
}

func (l *limits) token(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return allow(l.byToken, id, tokenRate, tokenBurst)
}

// refused counts a request that was refused, and reports whether it is to be logged and answered with its reason. It is
// asked only then: whoever floods control with bad tokens keeps nobody out who has a good one.
func (l *limits) refused(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return allow(l.byPeer, network(address), refusedRate, refusedMax)
}

// network is what a peer is counted by: its address, of IPv6 the first 64 bits.
func network(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	ip := at.Addr().Unmap()
	if ip.Is4() {
		return ip.String()
	}
	prefix, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return address
	}
	return prefix.String()
}

// errFlood answers refused requests beyond the limit.
var errFlood = connect.NewError(connect.CodeResourceExhausted, errors.New("too many requests from this address were refused: try again in a moment"))

// tokenFirst refuses who has no token before anything of the request's body is read: an interceptor sees a request when
// all of it is in memory.
func (s *Server) tokenFirst(next http.Handler) http.Handler {
	write := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, err := s.authenticate(r.Context(), r.URL.Path, r.Header.Get("Authorization"))
		if err != nil {
			_ = write.Write(w, r, err) // the client has left
			return
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

type tokenKey struct{}

// authenticate finds the token of a request, and puts it into its context.
func (s *Server) authenticate(ctx context.Context, procedure, header string) (context.Context, error) {
	text, ok := strings.CutPrefix(header, "Bearer ")
	if !ok {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("give a token: authorization: Bearer ghc_..."))
	}
	t, err := s.store.Authenticate(ctx, text)
	if errors.Is(err, store.ErrRefused) {
		if !s.limits.refused(peerOf(ctx).address) {
			return nil, errFlood
		}
		s.logger.Warn("a request was refused", zap.String("procedure", procedure), zap.String("peer", peerOf(ctx).address), zap.Error(err))
		return nil, connect.NewError(connect.CodeUnauthenticated, err)
	}
	if err != nil {
		return nil, failure(err)
	}
	if !s.limits.token(t.ID) {
		return nil, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("more than %d requests a second with one token: put more changes into one request, or use the import", tokenRate))
	}
	return context.WithValue(ctx, tokenKey{}, t), nil
}

func tokenOf(ctx context.Context) *store.Token {
	if t, ok := ctx.Value(tokenKey{}).(*store.Token); ok {
		return t
	}
	return &store.Token{} // may nothing
}

// environment finds the environment of a request, where its token allows what is asked. An unknown one and one that the
// token is not for look alike.
func (s *Server) environment(ctx context.Context, name string, write bool) (*store.Environment, *store.Token, error) {
	t := tokenOf(ctx)
	if name == "" {
		if name = t.Only(); name == "" {
			return nil, nil, connect.NewError(connect.CodeInvalidArgument, errors.New("give the environment, as project/name: the token is for several"))
		}
	}
	if !t.May(write, name) {
		verb := "read"
		if write {
			verb = "write"
		}
		s.logger.Warn("a request was refused", zap.String("token", t.Actor()), zap.String("environment", name), zap.String("scope", verb), zap.String("peer", peerOf(ctx).address))
		return nil, nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("the token may not %s environment %q: it needs the scope %s:%s", verb, name, verb, name))
	}
	e, err := s.store.Environment(name)
	if err != nil {
		return nil, nil, failure(err)
	}
	return e, t, nil
}

// administrator checks that the token of a request may do everything.
func (s *Server) administrator(ctx context.Context) (*store.Token, error) {
	t := tokenOf(ctx)
	for _, scope := range t.Scopes {
		if scope == store.ScopeAdmin {
			return t, nil
		}
	}
	s.logger.Warn("a request was refused", zap.String("token", t.Actor()), zap.String("scope", store.ScopeAdmin), zap.String("peer", peerOf(ctx).address))
	return nil, connect.NewError(connect.CodePermissionDenied, errors.New("the token needs the scope admin"))
}

// failure is the error of the API for an error of ours. It is the one place where codes are chosen.
func failure(err error) error {
	code := connect.CodeInternal
	change := (*directory.ChangeError)(nil)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		code = connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		code = connect.CodeDeadlineExceeded
	case errors.Is(err, store.ErrRefused):
		code = connect.CodePermissionDenied
	case errors.Is(err, store.ErrEtag):
		code = connect.CodeAborted
	case errors.Is(err, store.ErrOwned):
		code = connect.CodeFailedPrecondition
	case errors.Is(err, store.ErrExists):
		code = connect.CodeAlreadyExists
	case errors.Is(err, store.ErrBusy):
		code = connect.CodeResourceExhausted
	case errors.Is(err, store.ErrUnavailable):
		code = connect.CodeUnavailable
	case errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrInvalid):
		code = connect.CodeNotFound
	case errors.As(err, &change), errors.Is(err, store.ErrInvalid), errors.Is(err, store.ErrReused), errors.Is(err, directory.ErrInvalid), errors.Is(err, authority.ErrRequest),
		isManifestError(err):
		code = connect.CodeInvalidArgument
	}
	return connect.NewError(code, err)
}

func isManifestError(err error) bool {
	_, is := errors.AsType[*directory.ManifestError](err)
	return is
}

// soon ends a request whose body does not come: who has no credential yet holds no connection for long.
func soon(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(handshakeTime)) // both versions of HTTP can
		next.ServeHTTP(w, r)
	})
}
