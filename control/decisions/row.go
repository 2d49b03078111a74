package decisions

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Row is one decision as the segments have it: what is searched by has a column of its own, everything else of the entry
// is in Rest. Nothing is twice: AppendEntry puts the entry together again.
type Row struct {
	Time     int64  `parquet:"time,timestamp(nanosecond),delta"`     // of the entry: ns since 1970
	Received int64  `parquet:"received,timestamp(nanosecond),delta"` // when control took it
	ID       string `parquet:"id"`                                   // decision_id
	Edge     string `parquet:"edge,dict"`                            // the id of the edge whose certificate the request came with
	Outcome  string `parquet:"outcome,dict"`                         // allow, deny, or gap: entries that are missing
	Reason   string `parquet:"reason,dict"`
	App      string `parquet:"app,dict"`
	Route    string `parquet:"route,dict"`
	User     string `parquet:"user,dict"` // identity.subject
	Method   string `parquet:"method,dict"`
	Host     string `parquet:"host,dict"`
	Path     string `parquet:"path"` // request.path
	Status   int32  `parquet:"status,dict"`
	Revision string `parquet:"revision,dict"`
	Rule     string `parquet:"rule,dict"` // path: the rule that was asked
	Client   string `parquet:"requested_by,dict"`
	Trace    string `parquet:"trace_id"`
	Duration int64  `parquet:"duration_ns,delta"`
	DryRun   bool   `parquet:"dry_run"`
	Memo     bool   `parquet:"memo"`
	Identity string `parquet:"identity,dict"` // the members of identity but subject, as JSON without its braces
	Fixed    string `parquet:"fixed,dict"`    // those of the entry that are the same for most: format, labels, bundles, digests
	Rest     string `parquet:"rest"`          // the others
}

// The outcomes.
const (
	Allow = "allow"
	Deny  = "deny"
	Gap   = "gap" // the entry says that others are missing
)

// Bounds of a request.
const (
	MaxBody    = 1 << 20 // bytes as it is sent, compressed
	maxPlain   = 4 << 20 // bytes of its JSON
	maxEntries = 20_000
	maxEntry   = 2 << 20 // bytes of one entry
	maxColumn  = 16 << 10
)

// Errors of a request's body.
var (
	ErrBody  = errors.New("the body is not a JSON array of decision log entries")
	ErrLarge = errors.New("the body is too large")
)

// overhead is what a row takes in memory beside its texts.
const overhead = 400

func (r *Row) size() int {
	return overhead + len(r.ID) + len(r.User) + len(r.Path) + len(r.Client) + len(r.Trace) + len(r.Rest) + len(r.Identity)
}

// key names an entry: two with the same are one.
type key struct{ edge, id string }

func (r *Row) key() key { return key{r.Edge, r.ID} }

// parser makes rows of a body.
type parser struct {
	words    *words
	edge     string
	received int64
	list     []byte
	fixed    []byte
	identity []byte
}

// parse reads a JSON array of entries of Open Policy Agent's decision log API, which ours are.
func (p *parser) parse(body []byte) (rows []Row, err error) {
	if len(body) > maxPlain {
		return nil, fmt.Errorf("%w: more than %d bytes of JSON", ErrLarge, maxPlain)
	}
	if bytes.IndexByte(body, '\n') >= 0 { // between values: an entry is one line
		var line bytes.Buffer
		if err := json.Compact(&line, body); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBody, err)
		}
		body = line.Bytes()
	}
	s := &scanner{text: body}
	wrong := error(nil)
	ok := s.elements(0, func() bool {
		if len(rows) >= maxEntries {
			wrong = fmt.Errorf("%w: more than %d entries", ErrLarge, maxEntries)
			return false
		}
		from := s.at
		var r Row
		if !p.entry(s, &r) {
			return false
		}
		switch {
		case r.ID == "":
			wrong = fmt.Errorf("%w: entry %d has no decision_id", ErrBody, len(rows)+1)
			return false
		case s.at-from > maxEntry:
			wrong = fmt.Errorf("%w: entry %d has %d bytes", ErrLarge, len(rows)+1, s.at-from)
			return false
		}
		rows = append(rows, r)
		return true
	})
	switch {
	case wrong != nil:
		return nil, wrong
	case !ok || s.peek() != 0:
		return nil, fmt.Errorf("%w: entry %d, byte %d", ErrBody, len(rows)+1, s.at)
	}
	return rows, nil
}

// column takes a member as a column's text; false: it stays in the rest. A text that is too long for a column stays there.
func column(into *string, value []byte, keep func([]byte) string) bool {
	out, ok := text(value)
	if !ok || len(out) == 0 || len(out) > maxColumn || *into != "" {
		return false
	}
	*into = keep(out)
	return true
}

func own(b []byte) string { return string(b) }

// entry reads one entry.
func (p *parser) entry(s *scanner, r *Row) bool {
	p.list, p.fixed, p.identity = p.list[:0], p.fixed[:0], p.identity[:0]
	word := p.words.word
	var result []byte
	gap := false
	if !s.members(1, func(name, value []byte) bool {
		taken := false
		switch string(name) {
		case "decision_id":
			taken = column(&r.ID, value, own)
		case "timestamp":
			if taken = p.time(r, value); !taken {
				name = []byte("timestamp_sent")
			}
		case "outcome":
			if is := string(value); is == `"allow"` || is == `"deny"` {
				taken = column(&r.Outcome, value, word)
			} else {
				name = []byte("outcome_sent")
			}
		case "reason":
			taken = column(&r.Reason, value, word)
		case "app":
			taken = column(&r.App, value, word)
		case "route":
			taken = column(&r.Route, value, word)
		case "revision":
			taken = column(&r.Revision, value, word)
		case "path":
			taken = column(&r.Rule, value, word)
		case "requested_by":
			taken = column(&r.Client, value, word)
		case "trace_id":
			taken = column(&r.Trace, value, own)
		case "status":
			n, err := strconv.ParseInt(string(value), 10, 32)
			if taken = err == nil && n != 0 && r.Status == 0; taken {
				r.Status = int32(n)
			}
		case "dry_run":
			taken = flag(&r.DryRun, value)
		case "memo":
			taken = flag(&r.Memo, value)
		case "identity":
			taken = p.subject(r, value)
		case "request":
			taken = p.request(r, value)
		case "metrics":
			taken = metrics(r, value)
		case "format", "labels", "bundles", "digests", "directory":
			p.fixed, taken = member(p.fixed, name, value), true
		case "result":
			result = value
		case "gap":
			gap = true
		}
		if !taken {
			p.list = member(p.list, name, value)
		}
		return true
	}) {
		return false
	}
	r.Edge, r.Received = p.edge, p.received
	if r.Time == 0 {
		r.Time = p.received // the rest has what it says, if anything
	}
	switch {
	case gap:
		r.Outcome = Gap
	case r.Outcome == "":
		r.Outcome = outcomeOf(result)
	}
	r.Fixed, r.Identity, r.Rest = p.words.word(p.fixed), p.words.word(p.identity), string(p.list)
	return true
}

// member appends a member of an object.
func member(dst, name, value []byte) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	dst = append(append(append(dst, '"'), name...), '"', ':')
	return append(dst, value...)
}

func flag(into *bool, value []byte) bool {
	if string(value) != "true" || *into {
		return false
	}
	*into = true
	return true
}

// time reads the timestamp. One that a column cannot have is an entry's like any other member.
func (p *parser) time(r *Row, value []byte) bool {
	raw, ok := text(value)
	if !ok || r.Time != 0 {
		return false
	}
	at, err := time.Parse(time.RFC3339Nano, string(raw))
	if err != nil || at.Year() < 1971 || at.Year() > 2261 {
		return false
	}
	r.Time = at.UnixNano()
	return true
}

// subject takes the identity apart.
func (p *parser) subject(r *Row, value []byte) bool {
	s := &scanner{text: value}
	return s.members(0, func(name, value []byte) bool {
		if string(name) == "subject" && column(&r.User, value, p.words.word) {
			return true
		}
		p.identity = member(p.identity, name, value)
		return true
	})
}

// request takes the request apart, if it has what ours have.
func (p *parser) request(r *Row, value []byte) bool {
	s := &scanner{text: value}
	all := true
	ok := s.members(0, func(name, value []byte) bool {
		taken := false
		switch string(name) {
		case "method":
			taken = column(&r.Method, value, p.words.word)
		case "host":
			taken = column(&r.Host, value, p.words.word)
		case "path":
			taken = column(&r.Path, value, own)
		}
		all = all && taken
		return true
	})
	if !ok || !all {
		r.Method, r.Host, r.Path = "", "", "" // it stays in the rest, as a whole
	}
	return ok && all
}

func metrics(r *Row, value []byte) bool {
	s := &scanner{text: value}
	n := 0
	ok := s.members(0, func(name, value []byte) bool {
		n++
		if string(name) == "timer_server_handler_ns" {
			if ns, err := strconv.ParseInt(string(value), 10, 64); err == nil && ns >= 0 {
				r.Duration = ns
			}
		}
		return true
	})
	if !ok || n != 1 {
		r.Duration = 0 // likewise
	}
	return r.Duration > 0
}

// outcomeOf is what the result of an entry of Open Policy Agent's says: anything but a clear permission is none.
func outcomeOf(result []byte) string {
	allowed := string(result) == "true"
	s := &scanner{text: result}
	s.members(0, func(name, value []byte) bool {
		if n := string(name); n == "allowed" || n == "allow" {
			allowed = string(value) == "true"
		}
		return true
	})
	if allowed {
		return Allow
	}
	return Deny
}

// AppendEntry appends the entry as one line of JSON, without a line end: member for member what the edge sent.
func (r *Row) AppendEntry(dst []byte) []byte {
	dst = append(dst, `{"decision_id":`...)
	dst = appendText(dst, r.ID)
	dst = append(dst, `,"timestamp":"`...)
	dst = time.Unix(0, r.Time).UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, '"')
	texts := func(name, s string) {
		if s != "" {
			dst = append(append(append(dst, `,"`...), name...), '"', ':')
			dst = appendText(dst, s)
		}
	}
	if r.Fixed != "" {
		dst = append(append(dst, ','), r.Fixed...)
	}
	texts("trace_id", r.Trace)
	texts("revision", r.Revision)
	texts("path", r.Rule)
	texts("requested_by", r.Client)
	texts("app", r.App)
	texts("route", r.Route)
	if r.User != "" || r.Identity != "" {
		dst = append(dst, `,"identity":{`...)
		if dst = append(dst, r.Identity...); r.User != "" {
			if r.Identity != "" {
				dst = append(dst, ',')
			}
			dst = appendText(append(dst, `"subject":`...), r.User)
		}
		dst = append(dst, '}')
	}
	if r.Method != "" || r.Host != "" || r.Path != "" {
		dst = append(dst, `,"request":{`...)
		for _, m := range []struct{ name, value string }{{"method", r.Method}, {"host", r.Host}, {"path", r.Path}} {
			if m.value == "" {
				continue
			}
			if dst[len(dst)-1] != '{' {
				dst = append(dst, ',')
			}
			dst = append(append(append(dst, '"'), m.name...), '"', ':')
			dst = appendText(dst, m.value)
		}
		dst = append(dst, '}')
	}
	if r.Outcome != Gap {
		texts("outcome", r.Outcome)
	}
	texts("reason", r.Reason)
	if r.Status != 0 {
		dst = strconv.AppendInt(append(dst, `,"status":`...), int64(r.Status), 10)
	}
	if r.DryRun {
		dst = append(dst, `,"dry_run":true`...)
	}
	if r.Memo {
		dst = append(dst, `,"memo":true`...)
	}
	if r.Duration > 0 {
		dst = strconv.AppendInt(append(dst, `,"metrics":{"timer_server_handler_ns":`...), r.Duration, 10)
		dst = append(dst, '}')
	}
	if r.Rest != "" {
		dst = append(append(dst, ','), r.Rest...)
	}
	return append(dst, '}')
}

// at is a time as rows have it.
func at(t time.Time) int64 {
	switch {
	case t.IsZero():
		return math.MinInt64
	case t.Year() < 1700:
		return math.MinInt64
	case t.Year() > 2261:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// words keeps one copy of texts that come again and again. It belongs to one goroutine, and forgets all when it is full.
type words struct {
	all   map[string]string
	bytes int
}

const maxWords = 2 << 20 // bytes

func newWords() *words { return &words{all: map[string]string{}} }

func (w *words) word(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := w.all[string(b)]; ok {
		return s
	}
	if w.bytes += len(b) + 50; w.bytes > maxWords {
		clear(w.all)
		w.bytes = len(b)
	}
	s := string(b)
	w.all[s] = s
	return s
}
