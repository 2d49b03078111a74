// Package record is a decision between the gate and a sink: an [Entry], packed into the bytes that a spool keeps ([Packer]), and made a
// line of ([Lines]), which configuration and policy may mask. It owns the packed format and what is secret in a request. Of ours it imports
// input, query, panics, and the log's spool and events; only the log imports it, and who reads logs (package read).
//
// # What never appears in an entry
//
// Redaction knows the places where credentials are and looks only there.
// Replaced by "[redacted]", with a JSON pointer to each in masked:
//
//   - headers by name, in headers and in headerMap (plain and raw), and in the
//     headers that a result sets: authorization, cookie, set-cookie,
//     proxy-authorization, x-api-key and some more
//     (see defaultHeaders), and those in Config.Redact.Headers;
//   - any other header whose value starts with "Bearer " or "Basic ", or that
//     holds something shaped like a JWT;
//   - query parameters by name: access_token, token, api_key, code and some
//     more (see defaultParams), and those in Config.Redact.Params; in path,
//     query, fragment, parsed_query, and URLs in :path, referer and
//     similar headers; anything shaped like a JWT in a path or a query;
//   - members of parsed_body by name, at any depth: the same list without
//     code, which in a body is more often a country's.
//
// Names are compared without case, and those of parameters and members also
// without "_" and "-": accessToken is access_token. Removed altogether, with a
// JSON pointer in erased: identity.claims but for Config.Claims, the raw body (body and
// rawBody: parsed_body says what the policy saw), and the payload that
// Envoy's jwt_authn left in the metadata. A secret that is part of a path
// ("/reset/8c1f...") is not recognised unless it is a JWT.
//
// An entry larger than Config.MaxEntry loses its input, then its result, then
// its roles and the tails of its strings. A document that cannot be encoded is
// erased. The entry itself is always written.
package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"gatehouse/input"
)

// Entry is what one Check leaves behind. It belongs to the log from Append on,
// and must not alias memory that is used again (a transport's buffer).
type Entry struct {
	DecisionID string
	Time       time.Time     // when the request was received
	Duration   time.Duration // from then until the answer was ready

	App     string // name of the application
	Route   string // name or template of the route that matched
	Outcome string // "allow" or "deny": what was decided, also in a dry run
	Reason  string // the gate's reason; "" for a plain allow
	Status  int    // HTTP status that the client or the proxy was given
	DryRun  bool   // true: the request was let through whatever Outcome says

	Peer        string // the mTLS peer: SPIFFE ID or subject
	RequestedBy string // address of who connected to us or to the proxy
	TraceID     string // W3C trace context, in hex
	SpanID      string

	Revision string // of the whole view that decided
	Bundles  []Bundle
	Digests  Digests // of what decided beside the policy
	// DirectoryRevision is that of the directory that the decision was made with; 0: there is none. Its digest is in Digests.
	DirectoryRevision uint64
	// Facts are the questions that the policy asked of the directory with their answers: a list of {question, answer}. nil: none.
	Facts input.Document
	// FactsTruncated says that there were more.
	FactsTruncated bool
	Memo           bool // the policy's answer to the same question was remembered

	// Input is what the policy's input was made of. Where Asked is false, only this of it is recorded: Method, Host, Path, DecisionPath,
	// Params and Identity.
	input.Input
	Asked     bool           // the policy was asked
	InputSize int            // about how many bytes Input keeps in memory; see Config.QueueBytes
	Result    input.Document // what the policy answered; nil: nothing
	Error     string         // what went wrong, for operators

	// ResultKept is where the log keeps what it made of Result, where other entries have the very same; nil where they have not. It
	// keeps at most 1 KiB.
	ResultKept *atomic.Value
	// FactsKept is the same of Facts.
	FactsKept *atomic.Value

	Lost bool // for the log alone: taken off its queue unwritten, after its end

	params    [4]input.Param // room for Params, so that they cost nothing
	inputLost bool           // the log let go of Input for want of memory
}

// AddParam adds a parameter of the route.
func (e *Entry) AddParam(name, value string) {
	if e.Params == nil {
		e.Params = e.params[:0]
	}
	e.Params = append(e.Params, input.Param{Name: name, Value: value})
}

// Bundle is one part of the policy that decided.
type Bundle struct {
	Name, Revision, Digest string
}

// Digests name what a decision depends on beside the policy's bundles, each as a SHA-256 in hexadecimal; "" where there is none.
type Digests struct {
	Routes    string `json:"routes,omitempty"`    // the tables of all applications
	Keys      string `json:"keys,omitempty"`      // the key sets of all issuers
	Directory string `json:"directory,omitempty"` // users, groups and relations
}

// record is the line without its documents, which are spliced in behind it.
type record struct {
	DecisionID     string                  `json:"decision_id"`
	Timestamp      string                  `json:"timestamp"`
	Format         int                     `json:"format"`
	Labels         map[string]string       `json:"labels,omitempty"`
	TraceID        string                  `json:"trace_id,omitempty"`
	SpanID         string                  `json:"span_id,omitempty"`
	Revision       string                  `json:"revision,omitempty"`
	Bundles        map[string]recordBundle `json:"bundles,omitempty"`
	Path           string                  `json:"path,omitempty"`
	RequestedBy    string                  `json:"requested_by,omitempty"`
	App            string                  `json:"app,omitempty"`
	Route          string                  `json:"route,omitempty"`
	Parameters     map[string]string       `json:"parameters,omitempty"`
	Identity       recordIdentity          `json:"identity"`
	Peer           string                  `json:"peer,omitempty"`
	Request        recordRequest           `json:"request"`
	Outcome        string                  `json:"outcome"`
	Reason         string                  `json:"reason,omitempty"`
	Status         int                     `json:"status,omitempty"`
	DryRun         bool                    `json:"dry_run,omitempty"`
	Memo           bool                    `json:"memo,omitempty"`
	Error          *recordError            `json:"error,omitempty"`
	Metrics        recordMetrics           `json:"metrics"`
	Digests        Digests                 `json:"digests,omitzero"`
	Directory      *recordDirectory        `json:"directory,omitempty"`
	Facts          json.RawMessage         `json:"facts,omitempty"`
	FactsTruncated bool                    `json:"facts_truncated,omitempty"`
	Erased         []string                `json:"erased,omitempty"`
	Masked         []string                `json:"masked,omitempty"`
}

type recordBundle struct {
	Revision string `json:"revision"`
	Digest   string `json:"digest,omitempty"`
}

type recordDirectory struct {
	Revision uint64 `json:"revision"`
	Digest   string `json:"digest,omitempty"`
}

type recordIdentity struct {
	Type          string         `json:"type,omitempty"`
	Subject       string         `json:"subject,omitempty"`
	Issuer        string         `json:"issuer,omitempty"`
	Roles         []string       `json:"roles,omitempty"`
	Groups        []string       `json:"groups,omitempty"`
	Scopes        []string       `json:"scopes,omitempty"`
	Claims        map[string]any `json:"claims,omitempty"`
	Authenticated bool           `json:"authenticated"`
}

type recordRequest struct {
	Method string `json:"method,omitempty"`
	Host   string `json:"host,omitempty"`
	Path   string `json:"path,omitempty"`
}

type recordError struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

type recordMetrics struct {
	Handler int64 `json:"timer_server_handler_ns"`
}

type recordGap struct {
	Labels map[string]string `json:"labels,omitempty"`
	Gap    struct {
		Dropped    uint64 `json:"dropped"`
		Since      string `json:"since"`
		Until      string `json:"until"`
		Damaged    uint64 `json:"damaged_bytes,omitempty"`
		Unfinished uint64 `json:"unfinished_bytes,omitempty"`
		Segment    string `json:"segment,omitempty"`
	} `json:"gap"`
}

// maxKept bounds what each of Entry.ResultKept and Entry.FactsKept is given, in bytes.
const maxKept = 1 << 10

// MaxLine bounds a line, whoever wrote it.
const MaxLine = 16 << 20

// keepBuffer is the largest buffer that is kept for the next entry.
const keepBuffer = 1 << 20

// codec turns packed entries into lines. It is used by one goroutine at a time.
type codec struct {
	labels     map[string]string
	labelsText string // as a member of the line
	max        int
	schema     *input.Schema
	redact     redactor
	plain      bool // no line is made straight from the packed entry
	straight   lineWriter
	scan       scan

	// Reused from line to line.
	line          bytes.Buffer
	input, result []byte
	encoder       encoder
}

func newCodec(cfg *Config) codec {
	c := codec{schema: cfg.schema(), labels: maps.Clone(cfg.Labels), max: cfg.MaxEntry, redact: newRedactor(cfg.Redact), plain: cfg.Plain}
	if len(c.labels) > 0 {
		text, _ := encode(&c.line, c.labels) // strings: cannot fail
		c.labelsText = `,"labels":` + string(text)
	}
	return c
}

// appendLine appends the line of a packed entry to dst. What cannot be encoded or is too large is erased, and the line says so.
// An error means that this is not a packed entry.
func (c *codec) appendLine(dst, packed []byte) ([]byte, error) {
	if !c.plain {
		if line, ok := c.straight.appendLine(dst, packed, c); ok {
			return line, nil
		}
	}
	return c.plainLine(dst, packed)
}

// plainLine is appendLine by way of values.
func (c *codec) plainLine(dst, packed []byte) ([]byte, error) {
	c.scan.reset()
	s := &c.scan
	u := unpacking{packedReader: packedReader{in: packed}, scan: s, redact: &c.redact, schema: c.schema}
	e, err := u.unpack()
	if err != nil {
		return dst, err
	}
	rec := e.record
	rec.Labels = c.labels
	document := c.document(&c.input, e.input, e.has.input, "/input")
	result := c.document(&c.result, e.result, e.has.result, "/result")
	line := c.join(rec, document, result)
	if len(line) > c.max && document != nil {
		document = nil
		s.eraseAll("/input")
		line = c.join(rec, document, result)
	}
	if len(line) > c.max && result != nil {
		result = nil
		s.eraseAll("/result")
		line = c.join(rec, document, result)
	}
	if len(line) > c.max {
		c.shorten(rec)
		line = c.join(rec, document, result)
	}
	dst = append(dst, line...)
	// One huge entry is no reason to keep its memory.
	if c.line.Cap() > keepBuffer {
		c.line = bytes.Buffer{}
	}
	if cap(c.input)+cap(c.result) > keepBuffer {
		c.input, c.result = nil, nil
	}
	return dst, nil
}

// appendGap appends the line that stands for lost entries.
func (c *codec) appendGap(dst []byte, g Gap) []byte {
	rec := recordGap{Labels: c.labels}
	rec.Gap.Dropped, rec.Gap.Since, rec.Gap.Until = g.Dropped, Stamp(g.Since), Stamp(g.Until)
	rec.Gap.Damaged, rec.Gap.Unfinished, rec.Gap.Segment = g.Damaged, g.Unfinished, g.Segment
	line, _ := encode(&c.line, &rec) // strings and numbers: cannot fail
	return append(append(dst, line...), '\n')
}

// Stamp is a time as lines have it.
func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// document encodes one document; nil where there is none.
func (c *codec) document(buf *[]byte, v any, is bool, pointer string) []byte {
	if !is {
		return nil
	}
	out, err := c.encoder.append((*buf)[:0], v)
	if err != nil {
		c.scan.eraseAll(pointer)
		return nil
	}
	*buf = out
	return out
}

// join writes the line: the record, then the documents that are not nil.
func (c *codec) join(rec *record, document, result []byte) []byte {
	rec.Erased, rec.Masked = c.scan.erased, c.scan.masked
	line, _ := encode(&c.line, rec) // strings, numbers and maps of them: cannot fail
	line = line[:len(line)-1]       // without its "}"
	if result != nil {
		line = append(append(line, `,"result":`...), result...)
	}
	if document != nil {
		line = append(append(line, `,"input":`...), document...)
	}
	return append(line, "}\n"...)
}

// shorten is for an entry that is too large without any document: a path or a
// list of roles of tens of kilobytes.
func (c *codec) shorten(rec *record) {
	cut := func(s *string, pointer string) {
		// About twenty strings, each byte at most six as an escape.
		if limit := c.max / 128; len(*s) > limit {
			*s = strings.ToValidUTF8((*s)[:limit-3], "") + "..."
			c.scan.mask(pointer)
		}
	}
	cut(&rec.DecisionID, "/decision_id")
	cut(&rec.TraceID, "/trace_id")
	cut(&rec.SpanID, "/span_id")
	cut(&rec.Revision, "/revision")
	cut(&rec.Path, "/path")
	cut(&rec.RequestedBy, "/requested_by")
	cut(&rec.App, "/app")
	cut(&rec.Route, "/route")
	cut(&rec.Peer, "/peer")
	cut(&rec.Reason, "/reason")
	cut(&rec.Request.Method, "/request/method")
	cut(&rec.Request.Host, "/request/host")
	cut(&rec.Request.Path, "/request/path")
	cut(&rec.Identity.Type, "/identity/type")
	cut(&rec.Identity.Subject, "/identity/subject")
	cut(&rec.Identity.Issuer, "/identity/issuer")
	if rec.Error != nil {
		cut(&rec.Error.Code, "/error/code")
		cut(&rec.Error.Message, "/error/message")
	}
	id := &rec.Identity
	if id.Roles != nil || id.Groups != nil || id.Scopes != nil || id.Claims != nil {
		id.Roles, id.Groups, id.Scopes, id.Claims = nil, nil, nil, nil
		c.scan.erase("/identity/roles")
	}
	if rec.Facts != nil {
		rec.Facts, rec.FactsTruncated = nil, true
		c.scan.drop("/facts")
	}
	if rec.Parameters != nil {
		rec.Parameters = nil
		c.scan.erase("/parameters")
	}
}

// encode is json.Marshal into a buffer, without escapes for HTML. Invalid UTF-8
// comes out as U+FFFD.
func encode(buf *bytes.Buffer, v any) ([]byte, error) {
	buf.Reset()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding decision log entry: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
