package extauthz

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gatehouse/gate"
	"gatehouse/panics"
)

// Proxy is the kind of proxy in front of an HTTP listener. A listener serves one kind and reads only the headers that
// this kind sets: from any other proxy the client could have written them.
type Proxy string

// The proxies. The comment of HTTP says how each must be configured.
const (
	ProxyEnvoy   Proxy = "envoy"
	ProxyNginx   Proxy = "nginx"
	ProxyTraefik Proxy = "traefik"
)

// HTTPConfig configures an HTTP handler.
type HTTPConfig struct {
	Proxy Proxy
	// PathPrefix is what Envoy's http_service prepends to every path (path_prefix). Only for ProxyEnvoy; a request
	// whose path lacks it is denied as bad_request.
	PathPrefix string
	Logger     *zap.Logger // nil: none
}

// HTTP answers authorization requests over HTTP, using a gate: Envoy's HTTP authorization service, nginx's
// auth_request and Traefik's ForwardAuth.
//
// An allow is 200. A denial is 401 or 403; behind Envoy and Traefik one that the policy chose may also be another status
// from 300 to 499, which they hand on to the client. It is never a 5xx: Envoy takes that for a failure of ours and lets the request through under
// failure_mode_allow. It is never another 2xx, which nginx and Traefik take for an allow. A problem document keeps the
// status that it was written with; the reason in it is the one that the gate gave.
//
// Limits of HTTP mode: dynamic metadata is not sent, except the decision's id, which every answer has as x-decision-id.
// Query changes cannot be expressed, so an allow that needs one becomes a denial.
//
// What each proxy receives, and how it must be configured:
//
//   - Envoy sends the request itself. By default it sends none of the client's headers but authorization, and takes
//     none of ours over: allowed_headers must name what the policy and the credentials need, allowed_upstream_headers
//     what we set on the request, allowed_client_headers_on_success what we add to the response. Headers to take off go
//     by x-envoy-auth-headers-to-remove. As Envoy may hide the client's identity headers from us, it has to remove them
//     before it asks (early_header_mutation_extensions).
//   - nginx has to set X-Original-URI, X-Original-Method, X-Original-Host and X-Original-Proto, which overwrites what a
//     client sent under these names, and to copy each header that the app trusts with auth_request_set and
//     proxy_set_header. A header to take off is answered with an empty value, which nginx does not send on.
//   - Traefik sets X-Forwarded-Uri, -Method, -Host and -Proto itself, unless trustForwardHeader is set. Headers named in
//     authResponseHeaders are removed from the request where our answer lacks them, so one to take off is left out.
//
// nginx and Traefik take off only headers that their configuration names. A client's other spelling of an identity
// header, and a method override, are therefore refused behind them as bad_request. For headers.remove_credential the headers
// that may hold a credential have to be among those names; what is to stay of them is answered too.
type HTTP struct {
	gate     *gate.Gate
	logger   *zap.Logger
	proxy    Proxy
	prefix   string
	draining atomic.Bool
}

// NewHTTP returns a handler around g.
func NewHTTP(g *gate.Gate, cfg HTTPConfig) (*HTTP, error) {
	h := &HTTP{gate: g, logger: cfg.Logger, proxy: cfg.Proxy, prefix: cfg.PathPrefix}
	if h.logger == nil {
		h.logger = zap.NewNop()
	}
	switch cfg.Proxy {
	case ProxyEnvoy, ProxyNginx, ProxyTraefik:
	case "":
		return nil, fmt.Errorf("proxy: say which one asks: %s, %s or %s", ProxyEnvoy, ProxyNginx, ProxyTraefik)
	default:
		return nil, fmt.Errorf("proxy: %q is none of %s, %s, %s", cfg.Proxy, ProxyEnvoy, ProxyNginx, ProxyTraefik)
	}
	if h.prefix != "" && cfg.Proxy != ProxyEnvoy {
		return nil, fmt.Errorf("path_prefix: %q: only Envoy has one, not %s", h.prefix, cfg.Proxy)
	}
	if h.prefix != "" && (!strings.HasPrefix(h.prefix, "/") || strings.ContainsAny(h.prefix, "?#")) {
		return nil, fmt.Errorf("path_prefix: %q: give it as in Envoy's http_service, a path that begins with \"/\"", h.prefix)
	}
	return h, nil
}

// maxHeaderBytes is above the maximum that Envoy can send (max_request_headers_kb: 8192). net/http would answer a
// larger header itself and close the connection while the proxy still writes; limits.message is the limit that
// denies.
const maxHeaderBytes = 9 << 20

// Server returns a server for the handler with all timeouts and limits set. It speaks HTTP/1.1 only: on an unreadable
// request net/http sends a 400 there, but resets the stream in HTTP/2, which Envoy treats as a failure and lets
// through under failure_mode_allow. So Envoy's cluster must use HTTP/1.1 too.
func (h *HTTP) Server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: maxHeaderBytes, Protocols: protocols,
		DisableGeneralOptionsHandler: true} // otherwise net/http answers "OPTIONS *" with 200, which is an allow
	if log, err := zap.NewStdLogAt(h.logger, zap.DebugLevel); err == nil {
		s.ErrorLog = log
	}
	return s
}

// Drain adds "Connection: close" to every following response, so that shutdown does not close a connection on which
// the proxy is about to send a request.
func (h *HTTP) Drain() { h.draining.Store(true) }

// ServeHTTP implements http.Handler. Nothing is written before the answer is complete, so that a panic can still
// become a denial.
func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rep := h.answer(r)
	header := w.Header()
	for _, line := range rep.headers {
		header.Add(line.Name, line.Value)
	}
	if h.draining.Load() {
		header.Set("connection", "close")
	}
	if rep.status != http.StatusNotModified {
		header.Set("content-length", strconv.Itoa(len(rep.body)))
	}
	w.WriteHeader(rep.status)
	_, _ = io.WriteString(w, rep.body) // the proxy may have disconnected; HEAD and 304 have no body
}

// reply is one rendered response.
type reply struct {
	status  int
	headers []gate.Header
	body    string
}

// answer decides about one request and renders the response.
func (h *HTTP) answer(r *http.Request) (out reply) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("answering over HTTP", p)
			out = lastReply("internal")
		}
	}()
	ctx, cancel := h.deadline(r)
	defer cancel()
	a := h.gate.Check(ctx, h.request(r))
	return h.render(&a)
}

// deadline ends the request's context when Envoy stops waiting for the answer (a header in milliseconds): a later
// denial is a failure to Envoy, which failure_mode_allow lets through. A client that forges the header can only
// shorten its own request's time.
func (h *HTTP) deadline(r *http.Request) (context.Context, context.CancelFunc) {
	if h.proxy == ProxyEnvoy {
		if ms, err := strconv.ParseUint(r.Header.Get("x-envoy-expected-rq-timeout-ms"), 10, 31); err == nil && ms > 0 {
			return context.WithTimeout(r.Context(), time.Duration(ms)*time.Millisecond)
		}
	}
	return r.Context(), func() {}
}

// lastReply is the denial for when the gate's answer cannot be sent.
func lastReply(reason string) reply {
	return reply{
		status:  http.StatusForbidden,
		headers: []gate.Header{{Name: "content-type", Value: "application/problem+json"}, {Name: "cache-control", Value: "no-store"}},
		body:    `{"type":"about:blank","title":"Forbidden","status":403,"reason":"` + reason + `"}`,
	}
}
