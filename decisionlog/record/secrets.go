package record

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gatehouse/input"
)

// minSecret is the shortest text that Secrets gives as one: a shorter one would be found in everything.
const minSecret = 4

// Secrets tells what of an input the log would not show: paths into it, of places that always hold secrets and of those that
// do in this one, and the texts that stand there. A nil input gives the places.
func (r Redact) Secrets(input map[string]any) (paths [][]string, texts []string) {
	known := newRedactor(r)
	red := &known
	http := []string{"attributes", "request", "http"}
	add := func(base []string, more ...string) { paths = append(paths, slices.Concat(base, more)) }
	add(nil, "identity", "claims")
	add(nil, "attributes", "metadataContext", "filterMetadata", "envoy.filters.http.jwt_authn")
	for _, name := range []string{"body", "rawBody", "headerMap"} {
		add(http, name)
	}
	for _, name := range slices.Sorted(maps.Keys(red.headers)) {
		add(http, "headers", name)
	}
	for place, names := range map[string][]string{"parsed_query": slices.Concat(defaultParams, queryParams, r.Params),
		"parsed_body": slices.Concat(defaultParams, r.Params)} {
		for _, name := range names {
			add(nil, place, name)
		}
	}
	if input == nil {
		return paths, nil
	}
	var s scan
	red.document(copyJSON(input).(map[string]any), &s)
	for _, pointer := range s.masked {
		path := segments(pointer)
		paths = append(paths, path)
		if text, ok := at(input, path...).(string); ok && len(text) >= minSecret {
			texts = append(texts, text)
		}
	}
	return paths, texts
}

// document redacts an input in its JSON form, as far as parts of it are masked. What is left out altogether is in Secrets' places.
func (r *redactor) document(in map[string]any, s *scan) {
	const pointer = "/input/attributes/request/http"
	http, _ := at(in, "attributes", "request", "http").(map[string]any)
	if h, _ := http["headers"].(map[string]any); h != nil {
		r.headerObject(h, pointer+"/headers", s)
		for _, name := range keys(h) {
			if r.hides(name) {
				h[name] = r.masked(h[name], nil, pointer+"/headers/"+escape(name), s)
			}
		}
	}
	for name, clean := range map[string]func(string) string{"path": r.url, "query": r.queryString, "fragment": r.queryString} {
		if old, ok := http[name]; ok {
			http[name] = r.masked(old, clean, pointer+"/"+name, s)
		}
	}
	list, _ := in["parsed_path"].([]any)
	for i := range list {
		list[i] = r.masked(list[i], r.redactText, "/input/parsed_path/"+strconv.Itoa(i), s)
	}
	if q, _ := in["parsed_query"].(map[string]any); q != nil {
		r.params(q, "/input/parsed_query", s)
	}
	if body, ok := in["parsed_body"]; ok {
		in["parsed_body"] = r.members(body, "/input/parsed_body", 0, s)
	}
}

// at follows names down through objects, and numbers through lists; nil where there is no such thing.
func at(v any, names ...string) any {
	for _, name := range names {
		switch inner := v.(type) {
		case map[string]any:
			v = inner[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(inner) {
				return nil
			}
			v = inner[i]
		default:
			return nil
		}
	}
	return v
}

// segments are the names in a JSON pointer (RFC 6901) into the record, from the input on.
func segments(pointer string) []string {
	path := strings.Split(strings.TrimPrefix(pointer, "/input/"), "/")
	for i := range path {
		path[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(path[i])
	}
	return path
}

// copyJSON copies the objects and lists of plain JSON.
func copyJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, member := range v {
			out[key] = copyJSON(member)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, member := range v {
			out[i] = copyJSON(member)
		}
		return out
	}
	return v
}

// Shown makes texts about a request fit for others than the log: operators' events, traces, a terminal. What the log leaves out is left out
// there too.
type Shown struct{ o *Packing }

// defaultPacker is for who has no log.
var defaultPacker = sync.OnceValue(func() *Packer { return NewPacker(Config{}) })

// Shown is Log.Shown for a log that is not there.
func (r Redact) Shown(path string, headers []input.Header) Shown {
	return NewPacker(Config{Redact: r}).Shown(path, headers)
}

// Shown is for a request with this path, with its query, and these headers. A nil packer knows what every log leaves out.
func (p *Packer) Shown(path string, headers []input.Header) Shown {
	if p == nil {
		p = defaultPacker()
	}
	o := &Packing{Packer: p}
	o.collectSecrets(&Entry{Input: input.Input{Request: input.Request{Path: path, Headers: headers}}})
	o.deep = len(o.known.list) > 0
	return Shown{o}
}

// Text is a text without secrets.
func (s Shown) Text(text string) string { return s.o.hide(s.o.redact.redactText(text)) }

// Path is a path, or a URL, without secrets.
func (s Shown) Path(path string) string { return s.o.hidePlace(s.o.redact.url(path)) }

// Header is the value of a header without secrets.
func (s Shown) Header(name, value string) string {
	clean := s.o.redact.headerValue(name)
	if clean == nil {
		return redacted
	}
	return s.o.hide(clean(value))
}
