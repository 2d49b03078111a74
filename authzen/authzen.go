// Package authzen serves the OpenID AuthZEN Authorization API 1.0 over HTTP: access evaluations, alone and in batches, searches, and the
// metadata of the decision point. It owns the JSON of the requests and answers, their bounds, and who may ask. The gate decides each
// evaluation, by a rule of the policy or by the directory, and logs it; searches read one snapshot of the active View. Nothing here decides.
//
// It may import gate, directory, identity's results and strict JSON, and what gate imports.
package authzen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"gatehouse/gate"
	"gatehouse/panics"
)

// Bounds of one request.
const (
	maxBody        = 1 << 20  // bytes
	maxEvaluations = 1000     // of one batch
	maxQuestions   = 16 << 20 // bytes of a batch's questions, each with its defaults
	maxTime        = 30 * time.Second
)

// Client is who called, by its key.
type Client struct {
	ID string // of the key
	// ActAs lets it name the users that a policy decides about. The directory answers every client.
	ActAs bool
}

// Config is what the API is made of.
type Config struct {
	Gate *gate.Gate
	// Authenticate finds the client of an authorization header. Its error is not told to the client.
	Authenticate func(authorization string) (Client, error)
	// Decision is the rule that decides, as policy.decision has it: authzen/allow. Empty: the directory decides.
	Decision string
	// URL is the decision point's identifier, without a path: https://pdp.example.com. Empty: the host that is asked.
	URL   string
	Clock func() time.Time // nil: time.Now
}

// Handler is the API. It is safe for concurrent use, and starts nothing.
type Handler struct {
	with      Config
	rule      []string // nil: the directory decides
	endpoints map[string]endpoint
}

// endpoint answers a request's body with what is written as JSON.
type endpoint func(*request) (any, error)

// request is one authenticated request with its body.
type request struct {
	ctx    context.Context
	path   string
	id     string // X-Request-ID
	client Client
	from   string // address
	body   map[string]any
}

const (
	evaluationPath    = "/access/v1/evaluation"
	evaluationsPath   = "/access/v1/evaluations"
	subjectPath       = "/access/v1/search/subject"
	resourcePath      = "/access/v1/search/resource"
	actionPath        = "/access/v1/search/action"
	configurationPath = "/.well-known/authzen-configuration"
)

// New makes the API.
func New(with Config) (*Handler, error) {
	h := &Handler{with: with}
	if with.Clock == nil {
		h.with.Clock = time.Now
	}
	if with.Decision != "" {
		h.rule = strings.Split(with.Decision, "/")
		if slices.Contains(h.rule, "") {
			return nil, fmt.Errorf("decision: %q is not a path such as authzen/allow", with.Decision)
		}
	}
	if with.URL != "" {
		u, err := url.Parse(with.URL)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("url: %q is not a URL such as https://pdp.example.com, without a path", with.URL)
		}
	}
	h.endpoints = map[string]endpoint{evaluationPath: h.evaluation, evaluationsPath: h.evaluations,
		subjectPath: h.searchSubject, resourcePath: h.searchResource, actionPath: h.searchAction}
	return h, nil
}

// problem is an error with the status of its answer. Its text is what the client reads.
type problem struct {
	status int
	text   string
}

func (p *problem) Error() string { return p.text }

func bad(format string, args ...any) error {
	return &problem{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	if id := r.Header.Values("x-request-id"); len(id) > 0 {
		header.Set("X-Request-ID", id[0])
	}
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	out, err := h.answer(header, w, r)
	if err == nil {
		var text []byte
		if text, err = encode(out); err == nil {
			write(w, http.StatusOK, "application/json", string(text))
			return
		}
	}
	p, ok := errors.AsType[*problem](err)
	if !ok {
		p = &problem{http.StatusInternalServerError, "internal error"}
	}
	write(w, p.status, "text/plain; charset=utf-8", p.text)
}

func write(w http.ResponseWriter, status int, kind, body string) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) //nolint:gosec // no HTML, which nosniff holds; the client may be gone
}

// answer finds the endpoint and asks it.
func (h *Handler) answer(header http.Header, w http.ResponseWriter, r *http.Request) (out any, err error) {
	defer panics.Into("answering over HTTP", &err)
	if r.URL.Path == configurationPath {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return nil, wrongMethod(header, "GET, HEAD")
		}
		return h.configuration(r)
	}
	ask := h.endpoints[r.URL.Path]
	if ask == nil {
		return nil, &problem{http.StatusNotFound, "there is no such endpoint: " + configurationPath + " lists them"}
	}
	if r.Method != http.MethodPost {
		return nil, wrongMethod(header, "POST")
	}
	q := &request{path: r.URL.Path, id: r.Header.Get("x-request-id"), from: r.RemoteAddr}
	if q.client, err = h.authenticate(header, r); err != nil {
		return nil, err
	}
	if q.body, err = body(w, r); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxTime)
	defer cancel()
	q.ctx = ctx
	return ask(q)
}

func wrongMethod(header http.Header, allowed string) error {
	header.Set("Allow", allowed)
	return &problem{http.StatusMethodNotAllowed, "the method must be " + allowed}
}

// authenticate finds the client. RFC 6750 section 3: no error code where the request has no credential.
func (h *Handler) authenticate(header http.Header, r *http.Request) (Client, error) {
	const challenge = `Bearer realm="gatehouse"`
	values := r.Header.Values("authorization")
	if len(values) != 1 {
		header.Set("WWW-Authenticate", challenge)
		return Client{}, &problem{http.StatusUnauthorized, "give one key: authorization: Bearer KEY"}
	}
	client, err := h.with.Authenticate(values[0])
	if err != nil {
		header.Set("WWW-Authenticate", challenge+`, error="invalid_token"`)
		return Client{}, &problem{http.StatusUnauthorized, "the key is not known, or not valid now"}
	}
	return client, nil
}

// body reads the request's body: one JSON object, within bounds.
func body(w http.ResponseWriter, r *http.Request) (map[string]any, error) {
	values := r.Header.Values("content-type")
	if len(values) != 1 {
		return nil, bad("the content-type must be application/json")
	}
	if kind, params, err := mime.ParseMediaType(values[0]); err != nil || kind != "application/json" ||
		params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return nil, bad("the content-type must be application/json")
	}
	if len(r.Header.Values("content-encoding")) > 0 {
		return nil, bad("the body must come without a content-encoding")
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, &problem{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", maxBody)}
	}
	if err != nil {
		return nil, bad("the body did not arrive")
	}
	return decode(raw)
}

// configuration is the metadata of the decision point. What cannot be asked is not in it.
func (h *Handler) configuration(r *http.Request) (any, error) {
	base := h.with.URL
	if base == "" {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		u := url.URL{Scheme: scheme, Host: r.Host}
		if base = u.String(); r.Host == "" {
			return nil, bad("the request has no host")
		}
	}
	out := map[string]string{"policy_decision_point": base, "access_evaluation_endpoint": base + evaluationPath,
		"access_evaluations_endpoint": base + evaluationsPath}
	if h.rule == nil {
		out["search_subject_endpoint"] = base + subjectPath
		out["search_resource_endpoint"] = base + resourcePath
		out["search_action_endpoint"] = base + actionPath
	}
	return out, nil
}
