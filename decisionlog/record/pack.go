package record

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"gatehouse/decisionlog/spool"
	"gatehouse/input"
)

// A packed entry is what the spool holds: the entry's fields in a fixed order, without what redaction takes out.
//
//	byte     version, 1
//	uvarint  flags
//	...      the fields as pack writes them
//
// Numbers are varints as in encoding/binary. A string is a uvarint and its bytes: the number is four times the length, plus one
// where redaction changed the string; or two, which stands for "[redacted]" alone. A list is its length and its members. Plain
// JSON is a byte that says what follows, and that. Behind all of these are the input's fields that have a number; see packinput.go.
const packVersion = 1

const (
	flagDryRun = 1 << iota
	flagAuthenticated
	flagAsked       // the policy was
	flagNoInput     // the input was there, and is erased
	flagResult      // the policy answered
	flagNoResult    // the answer was there, and is erased
	flagNoRoles     // the identity's lists were there, and are erased
	flagClaims      // claims were there, and are erased, but for those that are recorded
	flagHeaderMap   // of the input, like those that follow
	flagTime        //
	flagTLS         //
	flagBody        // a body came, and is erased
	flagRawBody     //
	flagTruncated   //
	flagMatched     //
	flagJWTAuthn    // Envoy's payload was there, and is erased
	flagParsedBody  //
	flagSource      // an address as plain JSON
	flagDestination //
	flagMemo        // the decision was remembered
	flagDigests     // those of what decided beside the policy stand at the end
	flagWebSocket   // the route is one of WebSockets
	flagRedirect    // the application redirects to the route's path
)

const (
	textChanged = 1 // flags of a string
	textSecret  = 2
)

// Kinds of plain JSON.
const (
	kindNull = iota
	kindFalse
	kindTrue
	kindNumber
	kindString
	kindArray
	kindObject
)

// maxNesting bounds arrays and objects in plain JSON, for us and for who reads it.
const maxNesting = 1000

// jwtAuthn is where Envoy puts the token's payload.
const jwtAuthn = "envoy.filters.http.jwt_authn"

// Packer turns entries into bytes. It is never changed and serves any number of goroutines.
type Packer struct {
	schema *input.Schema
	redact redactor
	claims []string // names of those that are recorded
	max    int      // bytes of a packed entry
}

// NewPacker packs as a configuration says.
func NewPacker(cfg Config) *Packer {
	return &Packer{schema: cfg.schema(), redact: newRedactor(cfg.Redact), claims: slices.Compact(slices.Sorted(slices.Values(cfg.Claims))), max: cfg.MaxEntry}
}

// Packing is one entry on its way into bytes.
type Packing struct {
	*Packer
	buf   []byte
	limit int // longest string; 0: any
	scan  scan
	names []string // a stack: those of the objects being written

	lengths []int // where in buf a string's length looks like an escape

	path  string       // the request's, as far as it is no secret by name or shape
	kinds []headerKind // of its headers

	known    knownSecrets // of this entry's request
	deep     bool         // the entry holds one of them: each text is looked through
	at       []string     // where in the input is what is being written, as parts of a pointer
	masked   []string     // pointers to what was changed there
	resultAt span         // where the result is in buf
}

// Bytes is what was packed last, good until the next is.
func (o *Packing) Bytes() []byte { return o.buf }

// Reusable lets go of the entry, and reports whether another one may be packed in the same memory: one huge entry is no reason to keep it.
func (o *Packing) Reusable() bool {
	o.scan = scan{}
	return cap(o.buf) <= keepBuffer
}

// documents are the parts of an entry that somebody else makes, in plain JSON and redacted.
type documents struct {
	flags                uint64
	result, body         any
	packedResult         []byte // instead of result, where it was packed before
	resultScan, bodyScan scan
}

// kept is a part that was packed for another entry.
type kept struct {
	by     *Packer // what is secret to it
	bytes  []byte
	masked []string
}

// What of an entry turned out not to be plain JSON.
const (
	textUnchanged = iota
	badInput
	badResult
)

// Pack replaces o.buf by the packed entry. It cannot fail: what cannot be made or is too large is erased, and the entry says so.
func (p *Packer) Pack(o *Packing, e *Entry) {
	o.Packer, o.limit, o.deep = p, 0, false
	o.known.reset()
	d := o.documents(e)
	o.collectSecrets(e)
	for {
		bad := o.entry(e, &d)
		large := len(o.buf) > p.max
		switch {
		case e.Asked && d.flags&flagNoInput == 0 && (bad == badInput || large):
			d.flags = d.flags&^flagParsedBody | flagNoInput
		case d.flags&flagResult != 0 && (bad == badResult || large):
			d.flags = d.flags&^flagResult | flagNoResult
		case large && o.limit == 0:
			o.limit = p.max / 128 // about twenty strings, each byte at most six as an escape
		case !o.deep && o.known.in(o.buf, o.lengths):
			o.deep = true
			o.deepDocuments(e, &d)
		default:
			if !o.deep && d.packedResult == nil && d.flags&flagResult != 0 && bad == textUnchanged {
				o.cacheResult(e, &d, o.buf[o.resultAt.from:o.resultAt.to])
			}
			return
		}
	}
}

// collectSecrets collects the request's secrets, and what it learns of the request on the way.
func (o *Packing) collectSecrets(e *Entry) {
	k := &o.known
	o.kinds = o.kinds[:0]
	for i := range e.Input.Headers {
		h := &e.Input.Headers[i]
		kind := o.redact.kind(h.Name)
		if o.kinds = append(o.kinds, kind); kind == secretHeader {
			k.header(&o.redact, h)
		}
	}
	if o.path = o.redact.url(e.Path); o.path != e.Path { // as it is where a parameter has the name of a secret
		k.query(&o.redact, e.Path)
	}
	if len(k.list) > 0 {
		k.ready()
	}
}

// deepDocuments makes the documents once more, without what is known to be secret. What was too large stays out.
func (o *Packing) deepDocuments(e *Entry, d *documents) {
	without := d.flags & (flagNoInput | flagNoResult)
	o.scan.hide = o.hide
	*d = documents{}
	o.result(e, d)
	if e.Asked && without&flagNoInput == 0 {
		o.body(e, d)
	}
	o.scan = scan{}
	if without&flagNoResult != 0 {
		d.flags &^= flagResult
	}
	if d.flags |= without; d.flags&flagNoInput != 0 {
		d.flags &^= flagParsedBody
	}
}

// hide takes out what is known to be secret.
func (o *Packing) hide(v string) string {
	if !o.deep {
		return v
	}
	return o.known.hide(v, false)
}

// hidePlace is hide for what says where a request went.
func (o *Packing) hidePlace(v string) string {
	if !o.deep {
		return v
	}
	return o.known.hide(v, true)
}

func (o *Packing) documents(e *Entry) (d documents) {
	if !o.keptResult(e, &d) {
		o.result(e, &d)
	}
	if e.Asked {
		o.body(e, &d)
	}
	return d
}

func (o *Packing) body(e *Entry, d *documents) {
	o.scan = scan{hide: o.scan.hide}
	v, ok := makeDocument(e.Input.ParsedBody)
	switch {
	case !ok || e.inputLost:
		d.flags |= flagNoInput
	case e.Input.ParsedBody != nil:
		d.body = o.redact.members(v, "/input/parsed_body", 0, &o.scan)
		d.bodyScan, d.flags = o.scan, d.flags|flagParsedBody
		o.collectNamedSecrets()
	}
}

func (o *Packing) result(e *Entry, d *documents) {
	o.scan = scan{hide: o.scan.hide}
	v, ok := makeDocument(e.Result)
	switch {
	case !ok:
		d.flags |= flagNoResult
	case e.Result != nil:
		d.result = o.redact.result(v, &o.scan)
		d.resultScan, d.flags = o.scan, d.flags|flagResult
		o.collectNamedSecrets()
	}
}

// collectNamedSecrets adds what was secret by the name of its member.
func (o *Packing) collectNamedSecrets() {
	if !o.deep {
		for _, text := range o.scan.secrets {
			o.known.add(text, false)
		}
	}
}

// keptResult takes the result as it was packed for another entry.
func (o *Packing) keptResult(e *Entry, d *documents) bool {
	if e.ResultKept == nil {
		return false
	}
	k, _ := e.ResultKept.Load().(*kept)
	if k == nil || k.by != o.Packer {
		return false
	}
	d.packedResult, d.resultScan.masked, d.flags = k.bytes, k.masked, d.flags|flagResult
	return true
}

// cacheResult keeps the result that was packed last for other entries.
func (o *Packing) cacheResult(e *Entry, d *documents, packed []byte) {
	if e.ResultKept == nil || len(packed) > maxKept {
		return
	}
	e.ResultKept.Store(&kept{by: o.Packer, bytes: bytes.Clone(packed), masked: d.resultScan.masked})
}

// makeDocument asks for a document. One that fails or panics costs its own text, not the audit trail.
func makeDocument(d input.Document) (v any, ok bool) {
	if d == nil {
		return nil, true
	}
	defer func() {
		if recover() != nil {
			v, ok = nil, false
		}
	}()
	v, err := d.JSON()
	return v, err == nil
}

// entry writes everything, and says what of it could not be written.
func (o *Packing) entry(e *Entry, d *documents) (bad int) {
	flags := d.flags | e.flags()
	if e.Asked && flags&flagNoInput == 0 {
		flags |= inputFlags(&e.Input)
	}
	if id := &e.Identity; o.limit > 0 && len(id.Roles)+len(id.Groups)+len(id.Scopes)+len(id.Claims) > 0 {
		flags |= flagNoRoles
	}
	o.buf, o.lengths = append(o.buf[:0], packVersion), o.lengths[:0]
	o.uint(flags)
	o.time(e.Time) // first, because the age of the oldest entry is read there
	o.int(int64(e.Duration))
	o.uint(uint64(max(0, e.Status)))
	o.masked = o.masked[:0]
	o.strings(e.DecisionID, e.App, e.Route, e.Outcome, e.Reason)
	o.head(&e.Input, flags)
	o.strings(e.Peer, e.RequestedBy, e.TraceID, e.SpanID, e.Revision)
	o.uint(uint64(len(e.Bundles)))
	for i := range e.Bundles {
		o.strings(e.Bundles[i].Name, e.Bundles[i].Revision, e.Bundles[i].Digest)
	}
	o.params(e.Params)
	o.putRedacted(e.Error, o.hide(o.redact.redactText(e.Error)))
	mark := len(o.buf)
	switch {
	case flags&flagResult == 0:
	case d.packedResult != nil:
		o.buf = append(o.buf, d.packedResult...)
	case !o.value(d.result, 0):
		return badResult
	}
	o.resultAt = span{mark, len(o.buf)}
	if e.Asked && flags&flagNoInput == 0 && !o.input(&e.Input, d, flags) {
		return badInput
	}
	o.pointers(d, flags)
	if flags&flagDigests != 0 {
		o.strings(e.Digests.Routes, e.Digests.Keys, e.Digests.Directory)
	}
	if !o.added(e, flags) {
		return badInput
	}
	return textUnchanged
}

func (e *Entry) flags() (flags uint64) {
	flags |= flagIf(e.DryRun, flagDryRun) | flagIf(e.Identity.Authenticated, flagAuthenticated) | flagIf(e.Asked, flagAsked)
	return flags | flagIf(len(e.Identity.Claims) > 0, flagClaims) | flagIf(e.Memo, flagMemo) | flagIf(e.Digests != Digests{}, flagDigests)
}

func inputFlags(in *input.Input) uint64 {
	filters, _ := in.Metadata["filterMetadata"].(map[string]any)
	_, payload := filters[jwtAuthn]
	return flagIf(in.RawHeader, flagHeaderMap) | flagIf(!in.Time.IsZero(), flagTime) | flagIf(in.TLS != nil, flagTLS) | flagIf(in.HasBody, flagBody) |
		flagIf(in.RawBody, flagRawBody) | flagIf(in.Truncated, flagTruncated) | flagIf(in.Matched, flagMatched) | flagIf(in.WebSocket, flagWebSocket) | flagIf(in.Redirect, flagRedirect) |
		flagIf(payload, flagJWTAuthn) | flagIf(len(in.Source.Address.Other) > 0, flagSource) | flagIf(len(in.Destination.Address.Other) > 0, flagDestination)
}

func flagIf(b bool, flag uint64) uint64 {
	if b {
		return flag
	}
	return 0
}

func (o *Packing) params(params []input.Param) {
	o.uint(uint64(len(params)))
	for i := range params {
		o.packString(params[i].Name)
		o.putRedacted(params[i].Value, o.hidePlace(o.redact.redactText(params[i].Value)))
	}
}

// pointers writes where redaction changed the documents that are written. It never removes anything from them.
func (o *Packing) pointers(d *documents, flags uint64) {
	var result, body []string
	if flags&flagResult != 0 {
		result = d.resultScan.masked
	}
	if flags&flagParsedBody != 0 {
		body = d.bodyScan.masked
	}
	others := o.masked
	if flags&flagNoInput != 0 {
		others = slices.DeleteFunc(others, func(p string) bool { return strings.HasPrefix(p, "/input/") })
	}
	o.uint(uint64(len(result) + len(body) + len(others)))
	o.strings(result...)
	o.strings(body...)
	o.strings(others...)
}

// What a record of the spool is.
const (
	KindEntry spool.Kind = 1
	KindGap   spool.Kind = 2
)

// Gap is what is missing from the log at some place: what was lost since the last gap was recorded, or what is damaged in a segment.
type Gap struct {
	Dropped      uint64
	Since, Until time.Time
	Damaged      uint64 // bytes that were an entry's once, or may have been
	Unfinished   uint64 // bytes that were reserved for entries that never were
	Segment      string // where
}

// GapOf is the gap where a segment is damaged.
func GapOf(d spool.Damage) Gap {
	return Gap{Damaged: d.Bytes, Unfinished: d.Unfinished, Since: d.Since, Until: d.Until, Segment: d.Segment}
}

// PackGap replaces o.buf by a packed gap.
func (o *Packing) PackGap(g Gap) {
	o.buf = append(o.buf[:0], packVersion)
	o.uint(g.Dropped)
	o.uint(g.Damaged)
	o.time(g.Since)
	o.time(g.Until)
	o.packString(g.Segment)
}

// UnpackGap reads what PackGap wrote.
func UnpackGap(packed []byte) (g Gap, err error) {
	r := packedReader{in: packed}
	if r.byte() != packVersion {
		return Gap{}, ErrPacked
	}
	g.Dropped, g.Damaged = r.uint(), r.uint()
	g.Since, g.Until = r.time(), r.time()
	g.Segment, _ = r.string()
	if r.err {
		return Gap{}, ErrPacked
	}
	return g, nil
}
