package extauthz

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"gatehouse/gate"
)

// removeHeader lists the headers that Envoy has to remove from the request to the app.
const removeHeader = "x-envoy-auth-headers-to-remove"

// render converts an Answer to this proxy's format.
func (h *HTTP) render(a *gate.Answer) reply {
	if !a.Allow {
		return h.denied(a)
	}
	out := reply{status: http.StatusOK, headers: []gate.Header{{Name: "x-decision-id", Value: a.DecisionID}}}
	for _, set := range a.Set {
		out.set(set)
	}
	for _, name := range a.Remove {
		// Envoy removes after it sets: a header that is both set and removed is gone.
		out.unset(name)
		if h.proxy == ProxyNginx && sendable(name) {
			out.headers = append(out.headers, gate.Header{Name: name})
		}
	}
	if h.proxy == ProxyEnvoy && len(a.Remove) > 0 {
		out.headers = append(out.headers, gate.Header{Name: removeHeader, Value: strings.Join(a.Remove, ",")})
	}
	// A header for the client is sent like one for the app. It must not replace one that the app trusts.
	names := h.identityHeaders()
	trusted := append(slices.Clone(a.Remove), names.Names()...)
	var extra []gate.Header
	for _, add := range a.Response {
		if sendable(add.Name) && !named(out.headers, add.Name) && !slices.ContainsFunc(trusted, sameName(add.Name)) {
			extra = append(extra, gate.Header{Name: add.Name, Value: add.Value})
		}
	}
	out.headers = append(out.headers, extra...)
	return out
}

func (h *HTTP) denied(a *gate.Answer) reply {
	out := reply{status: h.denialStatus(a), body: validUTF8(a.Body)}
	for _, add := range a.Set {
		if sendable(add.Name) {
			out.headers = append(out.headers, gate.Header{Name: add.Name, Value: add.Value})
		}
	}
	if out.status != a.Status && a.Unsent.Body != "" { // the policy's status allows no body, this one does
		out.body = validUTF8(a.Unsent.Body)
		if a.Unsent.Type != "" {
			out.headers = append(out.headers, gate.Header{Name: "content-type", Value: a.Unsent.Type})
		}
	}
	return out
}

// denialStatus maps a denial to a status that denies behind this proxy.
func (h *HTTP) denialStatus(a *gate.Answer) int {
	// A failure of ours is 403 everywhere; a status chosen by the policy and the login redirect are kept where the
	// proxy forwards them.
	chosen := a.Reason == gate.Denied || a.Reason == gate.NoCredential || a.Status == http.StatusFound
	switch {
	case a.Status == http.StatusUnauthorized:
		return http.StatusUnauthorized
	case h.proxy != ProxyNginx && chosen && 300 <= a.Status && a.Status < 500:
		return a.Status
	case a.Status == http.StatusFound && (a.Reason == gate.NoCredential || a.Reason == gate.BadCredential):
		return http.StatusUnauthorized // the login redirect: nginx takes its target from the location header
	}
	return http.StatusForbidden
}

// set sets a header on the request to the app; the last of several settings of a name wins, as in Envoy.
func (r *reply) set(h gate.HeaderOption) {
	if !sendable(h.Name) {
		return
	}
	r.unset(h.Name)
	r.headers = append(r.headers, gate.Header{Name: h.Name, Value: h.Value})
}

func (r *reply) unset(name string) {
	r.headers = slices.DeleteFunc(r.headers, func(line gate.Header) bool { return strings.EqualFold(line.Name, name) })
}

func named(headers []gate.Header, name string) bool {
	return slices.ContainsFunc(headers, func(line gate.Header) bool { return strings.EqualFold(line.Name, name) })
}

func sameName(name string) func(string) bool {
	return func(other string) bool { return strings.EqualFold(name, other) }
}

// responseHeaders are headers of the response itself, which must not be set for the app or the client.
var responseHeaders = []string{"content-length", "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host", removeHeader}

// sendable reports whether a header can be sent on our response: pseudo-headers and framing cannot, even where the
// configuration lets a policy set them.
func sendable(name string) bool {
	return httpguts.ValidHeaderFieldName(name) && !slices.Contains(responseHeaders, strings.ToLower(name))
}
