package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"time"
)

// recorded is one event of a decision log, as far as a replay looks at it: parts of the event's own text, which is read once. What
// is a text is as it stands between its quotes; textOf gives what it means.
type recorded struct {
	event                               int64 // which of the log's it is, from 1
	id, timestamp, path, app, route     []byte
	method, host, target                []byte // of the request
	subject, roles                      []byte // of the identity; roles as a list
	authenticated, known                bool   // whether the caller is; whether the log has anything of one
	outcome, reason                     []byte
	status                              int
	erased, masked                      []byte // lists
	bundles, result, input, gap, claims []byte // values; nil: absent
	revision, metrics                   []byte
	dryRun                              bool
	opa                                 bool // the verdict was not there and is made of the result
}

var errRecord = errors.New("not a JSON object with a decision_id or a gap")

// parse takes an event apart. What it is made of stays the event's: it is good as long as that is.
func (r *recorded) parse(event []byte, number int64) error {
	*r = recorded{event: number}
	s := jsonScan{text: event}
	ok := s.members(func(key, value []byte) {
		switch string(key) {
		case "decision_id":
			r.id = unquoted(value)
		case "timestamp":
			r.timestamp = unquoted(value)
		case "path":
			r.path = unquoted(value)
		case "app":
			r.app = unquoted(value)
		case "route":
			r.route = unquoted(value)
		case "outcome":
			r.outcome = unquoted(value)
		case "reason":
			r.reason = unquoted(value)
		case "status":
			r.status, _ = strconv.Atoi(string(value))
		case "dry_run":
			r.dryRun = value[0] == 't'
		case "erased":
			r.erased = value
		case "masked":
			r.masked = value
		case "bundles":
			r.bundles = value
		case "revision":
			r.revision = unquoted(value)
		case "metrics":
			r.metrics = value
		case "result":
			r.result = value
		case "input":
			r.input = value
		case "gap":
			r.gap = value
		case "identity":
			r.identity(value)
		case "request":
			r.request(value)
		}
	})
	if !ok || s.at != len(event) || r.id == nil && r.gap == nil {
		return errRecord
	}
	if r.outcome == nil && r.gap == nil {
		r.foreign()
	}
	return nil
}

func (r *recorded) identity(value []byte) {
	s := jsonScan{text: value}
	r.known = true
	s.members(func(key, value []byte) {
		switch string(key) {
		case "subject":
			r.subject = unquoted(value)
		case "roles":
			r.roles = value
		case "claims":
			r.claims = value
		case "authenticated":
			r.authenticated = value[0] == 't'
		}
	})
}

func (r *recorded) request(value []byte) {
	s := jsonScan{text: value}
	s.members(func(key, value []byte) {
		switch string(key) {
		case "method":
			r.method = unquoted(value)
		case "host":
			r.host = unquoted(value)
		case "path":
			r.target = unquoted(value)
		}
	})
}

// routeMethod is the method of the route's rule: the request's, or WEBSOCKET.
func (r *recorded) routeMethod() []byte {
	if method := unquoted(within(r.input, "route", "method")); len(method) > 0 {
		return method
	}
	return r.method
}

// foreign fills in what Open Policy Agent's own decision log does not say in so many words.
func (r *recorded) foreign() {
	r.opa = true
	http := within(r.input, "attributes", "request", "http")
	r.method, r.host, r.target = unquoted(within(http, "method")), unquoted(within(http, "host")), unquoted(within(http, "path"))
	said := answerOf(r.result)
	switch {
	case said.allowed:
		r.outcome, r.status = []byte("allow"), 200
	case r.result == nil:
		r.outcome, r.reason, r.status = []byte("deny"), []byte("no_decision"), 403
	default:
		r.outcome, r.reason, r.status = []byte("deny"), []byte("denied"), 403
	}
	if said.status != 0 && !said.allowed {
		r.status = said.status
	}
}

// at is the time that the policy saw.
func (r *recorded) at() (time.Time, error) { return time.Parse(time.RFC3339Nano, string(r.timestamp)) }

// said is what of a recorded result bears on the verdict.
type said struct {
	allowed bool
	status  int // the policy's own; 0: none
}

func answerOf(result []byte) (out said) {
	if len(result) == 0 || result[0] != '{' {
		return said{allowed: string(result) == "true"}
	}
	s := jsonScan{text: result}
	s.members(func(key, value []byte) {
		switch string(key) {
		case "allowed":
			out.allowed = string(value) == "true"
		case "http_status":
			out.status, _ = strconv.Atoi(string(value))
		}
	})
	return out
}

// textOf is what a part between quotes means.
func textOf(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	var s string
	if json.Unmarshal([]byte(`"`+string(raw)+`"`), &s) != nil {
		return string(raw)
	}
	return s
}

// texts are the strings in a list.
func texts(list []byte) []string {
	var out []string
	if list == nil || json.Unmarshal(list, &out) != nil {
		return nil
	}
	return out
}

// unquoted is what stands between the quotes; nil where the value is no string.
func unquoted(value []byte) []byte {
	if len(value) < 2 || value[0] != '"' {
		return nil
	}
	return value[1 : len(value)-1]
}

// within follows names down through objects; nil where there is nothing.
func within(value []byte, names ...string) []byte {
	for _, name := range names {
		var found []byte
		s := jsonScan{text: value}
		if value == nil || !s.members(func(key, value []byte) {
			if string(key) == name {
				found = value
			}
		}) {
			return nil
		}
		value = found
	}
	return value
}

// jsonScan steps over JSON text without making anything of it. It checks no more than it needs to find its way.
type jsonScan struct {
	text []byte
	at   int
}

func (s *jsonScan) peek() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return c
		}
	}
	return 0
}

// members calls use with each member of the object at hand, and reports whether there is a whole one. A key has its escapes in it.
func (s *jsonScan) members(use func(key, value []byte)) bool {
	if s.peek() != '{' {
		return false
	}
	s.at++
	for first := true; ; first = false {
		switch c := s.peek(); {
		case c == '}':
			s.at++
			s.peek()
			return true
		case !first && c != ',':
			return false
		case !first:
			s.at++
		}
		key, ok := s.value()
		if !ok || key[0] != '"' || s.peek() != ':' {
			return false
		}
		s.at++
		value, ok := s.value()
		if !ok {
			return false
		}
		use(key[1:len(key)-1], value)
	}
}

// value returns the text of the value at hand.
func (s *jsonScan) value() ([]byte, bool) {
	c := s.peek()
	from := s.at
	switch c {
	case '{', '[':
		return s.nested(from)
	case '"':
		ok := s.quoted()
		return s.text[from:s.at], ok
	}
	for s.at < len(s.text) && bytes.IndexByte([]byte(",]}: \n\t\r\"[{"), s.text[s.at]) < 0 {
		s.at++
	}
	return s.text[from:s.at], s.at > from
}

// nested passes over an object or a list.
func (s *jsonScan) nested(from int) ([]byte, bool) {
	open := 0
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case '"':
			if !s.quoted() {
				return nil, false
			}
			continue
		case '{', '[':
			open++
		case '}', ']':
			open--
		}
		if s.at++; open == 0 {
			return s.text[from:s.at], true
		}
	}
	return nil, false
}

// quoted passes over a string.
func (s *jsonScan) quoted() bool {
	for s.at++; ; s.at++ {
		end := bytes.IndexByte(s.text[s.at:], '"')
		if end < 0 {
			s.at = len(s.text)
			return false
		}
		s.at += end
		before := s.text[:s.at]
		if (len(before)-len(bytes.TrimRight(before, `\`)))%2 == 0 {
			s.at++
			return true
		}
	}
}
