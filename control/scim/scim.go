// Package scim is control's SCIM 2.0 server (RFC 7643, RFC 7644): an identity provider pushes users and groups to it, and
// what it pushes is in the directory of an environment with the same write.
//
// A resource is kept as it came; of it are derived the user's object, with what the provider says in the property scim, his
// identities, and the groups' objects with their members. Each provider has a token, and its source is scim:<the token's
// name>: it sees and changes what has that source, and nothing else.
//
// It may import directory and control/store.
package scim

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"gatehouse/control/store"
	"gatehouse/panics"
)

// Config is what a Server is made of.
type Config struct {
	Store  *store.Store
	Logger *zap.Logger
	// Authenticate finds the token of a request. On an error it says the status to answer with.
	Authenticate func(*http.Request) (*store.Token, int, error)
}

// Path is where the server is.
const Path = "/scim/v2/"

// Bounds of the server.
const (
	maxBody     = 4 << 20
	readTime    = 30 * time.Second // for a body
	scansAtOnce = 2                // requests that look at all resources: each holds two of the store's four connections
	maxShown    = 50_000           // members and groups in one list: a page is shorter where it would have more
	defaultPage = 100
	maxPage     = 500
)

// Server answers requests below Path. New makes it.
type Server struct {
	with  Config
	scans chan struct{}
}

// New makes a server.
func New(with Config) *Server { return &Server{with, make(chan struct{}, scansAtOnce)} }

// request is one request, also one of a bulk request.
type request struct {
	context.Context

	e            *store.Environment
	token        *store.Token
	link         bool
	base         string // the URL of the environment's resources, without a slash at its end
	method       string
	path         []string // Users, an id
	query        url.Values
	body         []byte
	match, unmet string // If-Match, If-None-Match
	bulk         bool
}

func (r *request) source() string { return store.ScimPrefix + r.token.Name }

// response is an answer. body nil is none.
type response struct {
	status         int
	etag, location string
	body           map[string]any
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out, err := s.guarded(r, w)
	if err != nil {
		f, known := asFailure(err)
		if !known {
			s.with.Logger.Error("a SCIM request failed", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
		}
		out = &response{status: f.status, body: f.document()}
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	switch out.status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	}
	if out.etag != "" {
		h.Set("ETag", out.etag)
	}
	if out.location != "" {
		h.Set("Location", out.location)
	}
	if out.body == nil {
		w.WriteHeader(out.status)
		return
	}
	text, err := json.Marshal(out.body)
	if err != nil { // texts, numbers and objects of them
		panics.Report("writing a SCIM answer", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h.Set("Content-Type", "application/scim+json")
	w.WriteHeader(out.status)
	_, _ = w.Write(text) // the client has left
}

// guarded turns a panic into an error.
func (s *Server) guarded(r *http.Request, w http.ResponseWriter) (out *response, err error) {
	defer panics.Into("answering a SCIM request", &err)
	return s.serve(r, w)
}

func (s *Server) serve(r *http.Request, w http.ResponseWriter) (*response, error) {
	token, status, err := s.with.Authenticate(r)
	if err != nil {
		return nil, fail(status, "", "%v", err)
	}
	if len(r.URL.RequestURI()) > 8<<10 {
		return nil, fail(http.StatusRequestURITooLong, "", "the address is too long: search with POST .search")
	}
	q := &request{Context: r.Context(), token: token, method: r.Method, match: r.Header.Get("If-Match"), unmet: r.Header.Get("If-None-Match")}
	name, err := q.split(r.URL)
	if err != nil {
		return nil, err
	}
	may, link := token.MayScim(name)
	if !may {
		s.with.Logger.Warn("a request was refused", zap.String("token", token.Actor()), zap.String("environment", name), zap.String("scope", store.ScopeScim))
		return nil, fail(http.StatusForbidden, "", "the token needs the scope %s:%s", store.ScopeScim, name)
	}
	q.link = link
	if q.e, err = s.with.Store.Environment(name); err != nil {
		return nil, err
	}
	if q.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, invalid("invalidSyntax", "the query cannot be read: %v", err)
	}
	q.base = "https://" + r.Host + Path + name
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTime)) // both versions of HTTP can
	if q.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return nil, fail(http.StatusRequestEntityTooLarge, "tooMany", "the body has more than %d bytes", maxBody)
		}
		return nil, invalid("invalidSyntax", "the body cannot be read: %v", err)
	}
	return s.answer(q)
}

// split reads environment and resource of a path. Without an environment it is the one that the token is for.
func (r *request) split(u *url.URL) (environment string, err error) {
	rest := strings.Trim(strings.TrimPrefix(u.EscapedPath(), Path), "/")
	var parts []string
	if rest != "" {
		parts = strings.Split(rest, "/")
	}
	for i := range parts {
		if parts[i], err = url.PathUnescape(parts[i]); err != nil || parts[i] == "" {
			return "", fail(http.StatusNotFound, "", "there is no such address")
		}
	}
	if len(parts) >= 2 && !isEndpoint(parts[0]) {
		r.path = parts[2:]
		return parts[0] + "/" + parts[1], nil
	}
	r.path = parts
	if environment = r.token.Only(); environment == "" {
		return "", fail(http.StatusNotFound, "", "the address lacks the environment: %sproject/environment/Users", Path)
	}
	return environment, nil
}

func isEndpoint(name string) bool {
	return name == "" || 'A' <= name[0] && name[0] <= 'Z' || name[0] == '.' // an environment's name has small letters
}

// answer answers a request whose token is checked.
func (s *Server) answer(r *request) (*response, error) {
	if len(r.path) == 0 {
		return nil, fail(http.StatusNotImplemented, "", "resources of all types cannot be listed together: ask Users and Groups")
	}
	switch r.path[0] {
	case "Bulk":
		return s.bulk(r)
	case "ServiceProviderConfig", "ResourceTypes", "Schemas":
		return s.discover(r)
	case "Me", ".search":
		return nil, fail(http.StatusNotImplemented, "", "%s is not there: ask Users and Groups", r.path[0])
	}
	for _, k := range kinds {
		if k.endpoint != r.path[0] {
			continue
		}
		switch {
		case len(r.path) == 1:
			return s.collection(r, k)
		case len(r.path) == 2 && r.path[1] == ".search":
			return s.search(r, k)
		case len(r.path) == 2:
			return s.resource(r, k, r.path[1])
		}
	}
	return nil, fail(http.StatusNotFound, "", "there is no such address")
}

func (s *Server) collection(r *request, k *kind) (*response, error) {
	switch r.method {
	case http.MethodGet:
		q, err := k.queryOf(r.query)
		if err != nil {
			return nil, err
		}
		return s.list(r, k, q)
	case http.MethodPost:
		return s.create(r, k)
	}
	return nil, fail(http.StatusMethodNotAllowed, "", "%s is not possible here", r.method)
}

func (s *Server) resource(r *request, k *kind, id string) (*response, error) {
	switch r.method {
	case http.MethodGet:
		return s.get(r, k, id)
	case http.MethodPut:
		return s.replace(r, k, id)
	case http.MethodPatch:
		return s.patch(r, k, id)
	case http.MethodDelete:
		return s.delete(r, k, id)
	}
	return nil, fail(http.StatusMethodNotAllowed, "", "%s is not possible here", r.method)
}
