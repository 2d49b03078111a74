package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	texttemplate "text/template"

	"gatehouse/gate/body"
)

// Denials renders denials for the client. The zero value renders RFC 9457 problem details, HTML for a browser and a
// line of plain text for gRPC.
type Denials struct {
	loginURL  string
	templates map[int]template
}

// Template is an operator's denial body for one HTTP status. Body is a Go template over .Status, .Title, .Reason,
// .DecisionID, .Method and .Path; with an HTML content type its values are escaped.
type Template struct {
	ContentType string
	Body        string
}

type template struct {
	contentType string
	body        interface {
		Execute(io.Writer, any) error
	}
}

// problem holds the only data that a denial body may show. Nothing else of a decision may reach the client.
type problem struct {
	Type       string `json:"type"`
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Reason     string `json:"reason"`
	DecisionID string `json:"decision_id"`
	Method     string `json:"-"`
	Path       string `json:"-"`
}

// NewDenials checks a login URL and templates by HTTP status. A browser without a valid credential is redirected to
// loginURL, in which {return} is replaced by the requested path; without {return} the parameter "rd" is added.
func NewDenials(loginURL string, templates map[int]Template) (Denials, error) {
	d := Denials{loginURL: loginURL, templates: map[int]template{}}
	var errs []error
	if loginURL != "" {
		u, err := url.Parse(strings.ReplaceAll(loginURL, "{return}", ""))
		if err != nil || u.Scheme != "https" && u.Scheme != "http" && !strings.HasPrefix(loginURL, "/") || strings.HasPrefix(loginURL, "//") {
			errs = append(errs, fieldErrorf("Denials.LoginURL", "%q: give an http(s) URL or a path", loginURL))
		}
	}
	for _, status := range slices.Sorted(maps.Keys(templates)) {
		t := templates[status]
		if status < 400 || status > 599 {
			errs = append(errs, fieldErrorf("Denials.Templates", "%d: a denial has a status from 400 to 599", status))
			continue
		}
		compiled, err := compileTemplate(status, t)
		if err != nil {
			errs = append(errs, &FieldError{element("Denials.Templates", status), err})
			continue
		}
		d.templates[status] = compiled
	}
	return d, errors.Join(errs...)
}

func compileTemplate(status int, t Template) (template, error) {
	name := strconv.Itoa(status)
	out := template{contentType: t.ContentType}
	var err error
	if contentType, _ := body.MediaType(t.ContentType); contentType == "text/html" {
		out.body, err = htmltemplate.New(name).Parse(t.Body)
	} else {
		out.body, err = texttemplate.New(name).Parse(t.Body)
	}
	if err != nil {
		return template{}, err
	}
	if !headerValue(t.ContentType) || t.ContentType == "" {
		return template{}, fmt.Errorf("content_type %q is not a media type", t.ContentType)
	}
	return out, out.body.Execute(io.Discard, problem{})
}

const htmlBody = `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{.Status}} {{.Title}}</title></head>
<body><h1>{{.Title}}</h1><p>{{.Reason}}</p><p><small>Decision {{.DecisionID}}</small></p></body></html>
`

var htmlPage = htmltemplate.Must(htmltemplate.New("denial").Parse(htmlBody))

// render sets body and content type of a denial for which the policy gave no body. It cannot fail: where a template
// fails, problem details are rendered.
func (d *Denials) render(req *Request, a *Answer, reason string) {
	p := problem{Type: "about:blank", Title: http.StatusText(a.Status), Status: a.Status, Reason: reason,
		DecisionID: a.DecisionID, Method: sanitize(req.Method), Path: sanitize(req.Path)}
	wants := reader(req.Headers)
	if wants == grpcClient {
		a.Body = sanitize(p.Title + ": " + p.Reason)
		a.contentType("text/plain; charset=utf-8")
		return
	}
	if wants == browser && a.Status == http.StatusUnauthorized && d.loginURL != "" {
		a.Status = http.StatusFound
		a.Set = append(a.Set, HeaderOption{Name: "location", Value: d.login(req)})
	}
	var page bytes.Buffer
	if t, ok := d.templates[p.Status]; ok && t.body.Execute(&page, p) == nil {
		a.Body = strings.ToValidUTF8(page.String(), "\uFFFD")
		a.contentType(t.contentType)
		return
	}
	page.Reset()
	if wants == browser && htmlPage.Execute(&page, p) == nil {
		a.Body = page.String()
		a.contentType("text/html; charset=utf-8")
		return
	}
	body, err := json.Marshal(p)
	if err != nil { // cannot happen: strings and a number always marshal
		body = []byte(`{"title":"Forbidden"}`)
	}
	a.Body = string(body)
	a.contentType("application/problem+json")
}

func (a *Answer) contentType(value string) {
	for _, h := range a.Set {
		if strings.EqualFold(h.Name, "content-type") {
			return
		}
	}
	a.Set = append(a.Set, HeaderOption{Name: "content-type", Value: value})
}

// login is the redirect to the login page. The return target must be a path on this host: anything that does not
// begin with exactly one slash is dropped, to prevent an open redirect.
func (d *Denials) login(req *Request) string {
	back := req.Path
	if !strings.HasPrefix(back, "/") || strings.HasPrefix(back, "//") || strings.HasPrefix(back, `/\`) || req.Method != http.MethodGet {
		back = "/"
	}
	if strings.Contains(d.loginURL, "{return}") {
		return strings.ReplaceAll(d.loginURL, "{return}", url.QueryEscape(back))
	}
	separator := "?"
	if strings.Contains(d.loginURL, "?") {
		separator = "&"
	}
	return d.loginURL + separator + "rd=" + url.QueryEscape(back)
}

// client is the kind of client that a denial is rendered for.
type client uint8

const (
	apiClient client = iota
	browser
	grpcClient
)

// reader detects the kind of client: gRPC by its content type, a browser by an Accept header that ranks HTML over
// JSON (RFC 9110 section 12.5.1). A client that accepts anything is treated as an API client.
func reader(h Headers) client {
	if contentType, _ := body.MediaType(h.Get("content-type")); contentType == "application/grpc" || strings.HasPrefix(contentType, "application/grpc+") {
		return grpcClient
	}
	if strings.EqualFold(h.Get("x-requested-with"), "XMLHttpRequest") {
		return apiClient
	}
	var html, json float64
	accept := h.Get("accept")
	for range 32 { // bound: an Accept header names a few types
		var item string
		var more bool
		item, accept, more = strings.Cut(accept, ",")
		name, q := quality(item)
		switch name {
		case "text/html", "application/xhtml+xml":
			html = max(html, q)
		case "application/json", "application/problem+json":
			json = max(json, q)
		}
		if !more {
			break
		}
	}
	if html > json {
		return browser
	}
	return apiClient
}

// quality splits one item of an Accept header into its type and its weight, 1 by default.
func quality(item string) (string, float64) {
	name, params, _ := strings.Cut(item, ";")
	q := 1.0
	for param := range strings.SplitSeq(params, ";") {
		if key, value, ok := strings.Cut(strings.TrimSpace(param), "="); ok && strings.EqualFold(strings.TrimSpace(key), "q") {
			if f, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				q = f
			}
		}
	}
	return strings.ToLower(strings.TrimSpace(name)), q
}
