package control

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"gatehouse/control/store"
	"gatehouse/control/wire"
)

// Bounds of fetching bundles.
const (
	maxHold  = 5 * time.Minute // of one request that waits for something newer
	maxHolds = 25_000          // that wait at once; the others are answered at once

	pushReading = 2 * time.Minute // for the body of a push
)

// fetch serves the bundle of an environment by OPA's bundle protocol: GET /bundles/project/name with a token or an
// edge's certificate, and GET /bundles/own to an edge.
func (s *Server) fetch(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("project") + "/" + r.PathValue("environment")
	if r.PathValue("project") == "" {
		name = ""
	}
	e, edge, err := s.fetcher(r, name)
	if err != nil {
		answer(w, err)
		return
	}
	wait := asked(r.Header)
	if wait > 0 {
		select {
		case s.holds <- struct{}{}:
			defer func() { <-s.holds }()
		default:
			wait = 0
		}
	}
	p, err := s.newer(r, e, edge, wait)
	if err != nil {
		answer(w, err)
		return
	}
	if wait > 0 { // meanwhile it may have been revoked
		if _, _, err := s.fetcher(r, name); err != nil {
			answer(w, err)
			return
		}
	}
	w.Header().Set("Content-Type", wire.BundleType) // which says that requests may be held
	if p == nil {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte("nothing is promoted in " + e.Name + " yet\n")) // the client has left
		return
	}
	w.Header().Set("ETag", etagOf(p))
	w.Header().Set(wire.RevisionHeader, p.Digest)
	if matches(r.Header.Get("If-None-Match"), etagOf(p)) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	raw, err := s.policies.Read(p.Archive)
	if err != nil {
		s.logger.Error("a bundle cannot be served", zap.String("environment", e.Name), zap.String("revision", p.Digest), zap.Error(err))
		http.Error(w, "control cannot read this bundle: its log has more", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(maxHold)) // both versions of HTTP can
	_, _ = w.Write(raw)                                                         // the client has left
}

// signer serves the certificate of the key that bundles are signed with.
func (s *Server) signer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(s.policies.Certificate()) // the client has left
}

func etagOf(p *store.Revision) string { return `"` + p.Archive + `"` }

// matches reports whether an If-None-Match names an ETag.
func matches(header, etag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == etag || one == "*" {
			return true
		}
	}
	return false
}

// asked is how long a request may be held: Prefer: modes=snapshot;wait=30 (RFC 7240 separates by commas, OPA by semicolons).
func asked(h http.Header) time.Duration {
	for _, line := range h.Values("Prefer") {
		for _, one := range strings.FieldsFunc(line, func(r rune) bool { return r == ';' || r == ',' }) {
			if text, ok := strings.CutPrefix(strings.TrimSpace(one), "wait="); ok {
				if n, err := strconv.Atoi(text); err == nil && n > 0 {
					return min(time.Duration(n)*time.Second, maxHold)
				}
			}
		}
	}
	return 0
}

// newer is what an edge, or who has a token (edge ""), is to have, once that is not what the request says that it has, or the time is over.
func (s *Server) newer(r *http.Request, e *store.Environment, edge string, wait time.Duration) (*store.Revision, error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		p, changed := e.RevisionFor(edge)
		if wait == 0 || p != nil && !matches(r.Header.Get("If-None-Match"), etagOf(p)) {
			return p, nil
		}
		select {
		case <-changed:
		case <-over.C:
			return p, nil
		case <-s.stopping:
			return nil, errStopping
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// fetcher finds the environment whose bundle a request may have, and the edge that asks; "": a token does. name "" is the
// environment of the edge.
func (s *Server) fetcher(r *http.Request, name string) (e *store.Environment, id string, err error) {
	ctx := r.Context()
	if header := r.Header.Get("Authorization"); header != "" && name != "" {
		ctx, err := s.authenticate(ctx, r.URL.Path, header)
		if err != nil {
			return nil, "", err
		}
		if t := tokenOf(ctx); !t.Has(store.ScopeRead, name) && !t.Has(store.ScopePromote, name) {
			return nil, "", s.denied(ctx, t, "fetch", name, store.ScopeRead)
		}
		e, err := s.store.Environment(name)
		return e, "", failure(err)
	}
	edge, err := (&edgeService{s}).known(ctx, "fetching a bundle")
	if err != nil {
		return nil, "", err
	}
	if name != "" && name != edge.Environment {
		s.refusal(ctx, store.Audit{Actor: "edge " + edge.Name + " (" + edge.ID + ")", Action: "fetch", Subject: short(name), Detail: "the edge is of " + edge.Environment})
		return nil, "", connect.NewError(connect.CodePermissionDenied, errors.New("this edge is of another environment"))
	}
	e, err = s.store.Environment(edge.Environment)
	return e, edge.ID, failure(err)
}

// answer answers a request that failed.
func answer(w http.ResponseWriter, err error) {
	status, text := http.StatusInternalServerError, "an error of control itself: its log has more"
	if about, ok := errors.AsType[*connect.Error](err); ok {
		text = about.Message()
		switch about.Code() {
		case connect.CodeUnauthenticated:
			status = http.StatusUnauthorized
		case connect.CodePermissionDenied:
			status = http.StatusForbidden
		case connect.CodeNotFound:
			status = http.StatusNotFound
		case connect.CodeResourceExhausted:
			status = http.StatusTooManyRequests
		case connect.CodeUnavailable:
			status = http.StatusServiceUnavailable
		}
	} else if errors.Is(err, context.Canceled) {
		return // nobody hears it
	}
	http.Error(w, text, status)
}

// few lets few requests be read at once: those that are large. Only tokens that may send such have a place, and for a time that
// a slow line needs.
func few(slots chan struct{}, may func(*store.Token) bool, next http.Handler) http.Handler {
	write := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !may(tokenOf(r.Context())) {
			http.MaxBytesHandler(next, maxRequest).ServeHTTP(w, r) // to be refused, on record
			return
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(pushReading)) // both versions of HTTP can
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			_ = write.Write(w, r, connect.NewError(connect.CodeResourceExhausted, errors.New("others are pushing bundles: try again in a moment"))) // the client has left
		}
	})
}
