package envoyconf

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"gatehouse/doctor/tree"
)

// denials are the statuses with which Gatehouse says no, and Envoy that Gatehouse does not answer.
func denials() []int {
	return []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable}
}

// answers looks at what becomes of a denial on its way to the client.
func (e *examiner) answers(c chain) {
	for _, m := range c.at.Get("local_reply_config", "mappers").Items() {
		if status, ok := m.Get("status_code").Number(); ok && success(status) && slices.ContainsFunc(denials(), func(d int) bool { return takes(m.Get("filter"), d) }) {
			e.findings.Found("denial-rewritten", m.Get("status_code"), "local_reply_config makes %g of denials", status).Fix = func() { m.Remove("status_code") }
		}
	}
	for _, f := range c.filters {
		if f.kind == "envoy.extensions.filters.http.custom_response.v3.CustomResponse" && !f.disabled {
			e.customResponse(f.config.Get("custom_response_matcher"), f.config.Get("custom_response_matcher"))
		}
	}
}

func success(status float64) bool { return status >= 200 && status < 400 }

// takes says whether a filter of access logs, which local_reply_config has too, may take an answer of Envoy's with this status to a request that was denied.
func takes(f tree.Node, status int) bool {
	any := func(d int) func(tree.Node) bool { return func(n tree.Node) bool { return takes(n, d) } }
	switch {
	case f.Get("status_code_filter").Exists():
		comparison := f.Get("status_code_filter", "comparison")
		value, _ := comparison.Get("value", "default_value").Number()
		switch comparison.Get("op").Text() {
		case "GE":
			return float64(status) >= value
		case "LE":
			return float64(status) <= value
		case "NE":
			return float64(status) != value
		}
		return float64(status) == value
	case f.Get("and_filter").Exists():
		return !slices.ContainsFunc(f.Get("and_filter", "filters").Items(), func(n tree.Node) bool { return !takes(n, status) })
	case f.Get("or_filter").Exists():
		return slices.ContainsFunc(f.Get("or_filter", "filters").Items(), any(status))
	case f.Get("response_flag_filter").Exists():
		flags := f.Get("response_flag_filter", "flags").Texts()
		return len(flags) == 0 || slices.Contains(flags, "UAEX") // which ext_authz sets
	case f.Get("not_health_check_filter").Exists(), !f.Exists():
		return true
	}
	return true // others look at the request, or at chance
}

// customResponse looks through a matcher for answers that stand for denials. What it compares with is what it can name: a status or its class.
func (e *examiner) customResponse(whole, n tree.Node) {
	kind, value, _ := typed(n)
	switch kind {
	case "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy", "envoy.extensions.http.custom_response.redirect_policy.v3.RedirectPolicy":
		if status, ok := value.Get("status_code").Number(); ok && success(status) && ofDenials(whole) {
			e.findings.Found("denial-rewritten", value.Get("status_code"), "custom_response makes %g of denials", status).Fix = func() { value.Remove("status_code") }
		}
		return
	}
	for _, item := range n.Items() {
		e.customResponse(whole, item)
	}
	for _, m := range n.Members() {
		e.customResponse(whole, m.Value)
	}
}

// ofDenials says whether a matcher's values are of denials. One without values may take everything.
func ofDenials(matcher tree.Node) bool {
	values := compared(matcher)
	return len(values) == 0 || slices.ContainsFunc(values, func(v string) bool {
		return v == "4xx" || v == "5xx" || slices.ContainsFunc(denials(), func(d int) bool { return v == strconv.Itoa(d) })
	})
}

// compared are the values that a matcher compares with.
func compared(n tree.Node) (values []string) {
	for _, item := range n.Items() {
		values = append(values, compared(item)...)
	}
	for _, m := range n.Members() {
		switch key := snake(m.Name); {
		case key == "exact" && m.Value.Text() != "":
			values = append(values, strings.ToLower(m.Value.Text()))
		case key == "exact_match_map" || key == "prefix_match_map":
			for _, entry := range m.Value.Get("map").Members() {
				values = append(values, strings.ToLower(entry.Name))
			}
		}
		values = append(values, compared(m.Value)...)
	}
	return values
}

// writes looks at a filter in front of ext_authz for credentials that are none of the client's.
func (e *examiner) writes(c chain, f, own filter) {
	switch {
	case f.disabled:
	case f.kind == "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation":
		e.credentials(f.config.Get("mutations", "request_mutations"), "a filter in front of ext_authz")
	case f.kind == "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector":
		e.findings.Found("credentials-written", f.at, "%s gives requests a credential before Gatehouse sees them", f.name).Fix = func() {
			c.list.RemoveItem(f.at)
			c.list.Insert(e.after(c, own.at), f.at)
		}
	}
}

// credentials looks for credentials among mutations of headers. A value that is made of what the client sent is its own.
func (e *examiner) credentials(list tree.Node, where string) {
	for _, at := range list.Items() {
		e.credential(at.Get("append", "header"), where, func() { list.RemoveItem(at) })
	}
}

func (e *examiner) credential(header tree.Node, where string, remove func()) {
	name, value := strings.ToLower(header.Get("key").Text()), header.Get("value").Text()
	if slices.Contains(e.gatehouse.Credentials, name) && !strings.Contains(value, "%REQ") && (value != "" || header.Get("raw_value").Text() != "") {
		e.findings.Found("credentials-written", header, "%s writes %s: callers are whoever that names", where, name).Fix = remove
	}
}
