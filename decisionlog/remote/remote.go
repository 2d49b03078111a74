// Package remote sends lines of the decision log to a server, as many in a request as it takes: Open Policy Agent's API, and OTLP. It owns
// the size of requests and their encoding; retries are its caller's. Of ours it imports events. Only the decision log imports it, and
// edge, which says how to reach a server.
package remote

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"gatehouse/decisionlog/events"
)

// Server is a server that decisions are sent to: at least once, in order, each request acknowledged before the next.
type Server struct {
	// URL is the endpoint as people see it.
	URL string
	// Post sends a request there, with the credential that the server wants. It is called by one goroutine.
	Post func(ctx context.Context, header http.Header, body []byte) (*http.Response, error)
	// Close lets go of connections; nil: there is nothing to do.
	Close func()
	// MaxRequest bounds the body in bytes, as it is sent: compressed. 0 means 32 KiB for OPA's API, which is OPA's own bound, and 512 KiB
	// for OTLP; less than 1 KiB is an error.
	MaxRequest int
	// Delay is how long an entry may wait for others to be sent with; 0 means 1 s.
	Delay time.Duration
	// Timeout bounds one request; 0 means 30 s.
	Timeout time.Duration
}

const (
	opaRequest   = 32 << 10 // bytes
	otlpRequest  = 512 << 10
	minRequest   = 1 << 10
	maxLines     = 1 << 20 // bytes of lines in one request
	defaultDelay = time.Second
	defaultPost  = 30 * time.Second
	maxAnswer    = 64 << 10
	maxPause     = time.Minute // that a server may ask for
)

// Check refuses what cannot be honoured.
func (r *Server) Check(kind string) error {
	if r.Post == nil || r.URL == "" {
		return fmt.Errorf("decision log: the %s sink has no server: set url", kind)
	}
	if r.MaxRequest != 0 && r.MaxRequest < minRequest || r.MaxRequest > maxLines {
		return fmt.Errorf("decision log: %s: requests of %d bytes: must be from %d to %d", kind, r.MaxRequest, minRequest, maxLines)
	}
	if r.Delay < 0 || r.Timeout < 0 {
		return fmt.Errorf("decision log: %s: delay and timeout must not be negative", kind)
	}
	return nil
}

// encoding is how a server wants events.
type encoding interface {
	// encode makes the body of a request, uncompressed, and its media type.
	encode(lines [][]byte) (body []byte, mediaType string, err error)
	// accepted reads the answer to a request that succeeded, and says how many events the server refuses permanently.
	accepted(answer []byte) (refused int, err error)
}

// Sender sends lines to a server. It belongs to its writer's goroutine.
type Sender struct {
	cfg     Server
	format  encoding
	refused func(n int, err error)
	room    int // bytes of lines that make a request of about MaxRequest
	ceiling int // more than that the server has found too large
	zip     *gzip.Writer
	body    bytes.Buffer
}

// ToOPA sends lines to a receiver of Open Policy Agent's decision log API. It calls refused with the number of events that the server has
// taken, and refuses permanently.
func ToOPA(cfg Server, refused func(n int, err error)) *Sender {
	cfg.MaxRequest = cmp.Or(cfg.MaxRequest, opaRequest)
	return newRemote(cfg, opaEvents{}, refused)
}

// ToOTLP is ToOPA for a receiver of OpenTelemetry's logs.
func ToOTLP(cfg Server, labels map[string]string, refused func(n int, err error)) *Sender {
	cfg.MaxRequest = cmp.Or(cfg.MaxRequest, otlpRequest)
	return newRemote(cfg, newOTLP(labels), refused)
}

func newRemote(cfg Server, format encoding, refused func(n int, err error)) *Sender {
	r := &Sender{cfg: cfg, format: format, refused: refused, ceiling: maxLines}
	r.cfg.Delay, r.cfg.Timeout = cmp.Or(r.cfg.Delay, defaultDelay), cmp.Or(r.cfg.Timeout, defaultPost)
	r.room = r.cfg.MaxRequest
	r.zip, _ = gzip.NewWriterLevel(&r.body, gzip.BestSpeed) // the level is a valid one
	return r
}

// Close lets go of connections.
func (r *Sender) Close() { r.cfg.Release() }

// Release is Close for a server that nothing was sent to.
func (r *Server) Release() {
	if r.Close != nil {
		r.Close()
	}
}

// Room is how many bytes of lines make a request of about MaxRequest.
func (r *Sender) Room() int { return r.room }

// Delay is how long a line may wait for so many.
func (r *Sender) Delay() time.Duration { return r.cfg.Delay }

// WriteLines sends as many lines as one request holds, from the first on, and says how many bytes these are.
func (r *Sender) WriteLines(ctx context.Context, p []byte) (n int, err error) {
	lines := r.split(p)
	for stripped := 0; ; {
		batch := lines
		if stripped > 0 {
			batch = [][]byte{strip(lines[0], stripped)}
		}
		var size int
		if size, err = r.send(ctx, batch); err == nil {
			break
		}
		switch {
		case ctx.Err() != nil || !tooMuch(err):
			return 0, err
		case len(lines) > 1:
			r.learn(err, total(lines))
			lines = lines[:r.reduceBatch(lines, size)]
		case stripped < maxStripped:
			stripped++
		default:
			return 0, err
		}
	}
	n = total(lines)
	r.grow(n, r.body.Len())
	return n, nil
}

var errLarge = errors.New("an event is too large for a request, whatever is left out of it: raise max_request")

// send sends lines in one request, and says how large that is.
func (r *Sender) send(ctx context.Context, lines [][]byte) (size int, err error) {
	body, mediaType, err := r.compress(lines)
	if err != nil {
		return 0, err
	}
	if len(body) > r.cfg.MaxRequest {
		return len(body), errLarge
	}
	return len(body), r.post(ctx, body, mediaType)
}

// split takes lines from the first on until there is no more room. That the last goes beyond does not matter, and as much is read at once.
func (r *Sender) split(p []byte) (lines [][]byte) {
	for n := 0; len(p) > 0 && n < r.room; {
		end := bytes.IndexByte(p, '\n') + 1
		lines = append(lines, p[:end])
		n += end
		p = p[end:]
	}
	return lines
}

func total(lines [][]byte) (n int) {
	for _, line := range lines {
		n += len(line)
	}
	return n
}

func (r *Sender) compress(lines [][]byte) (body []byte, mediaType string, err error) {
	plain, mediaType, err := r.format.encode(lines)
	if err != nil {
		return nil, "", err
	}
	r.body.Reset()
	r.zip.Reset(&r.body)
	_, _ = r.zip.Write(plain) // a buffer takes everything
	_ = r.zip.Close()
	return r.body.Bytes(), mediaType, nil
}

// reduceBatch says how many lines to try instead, where these make a body of so many bytes.
func (r *Sender) reduceBatch(lines [][]byte, body int) int {
	n := len(lines) / 2
	if body > r.cfg.MaxRequest {
		n = len(lines) * r.cfg.MaxRequest / body * 9 / 10
	}
	return max(1, min(n, len(lines)-1))
}

// grow learns from a request what would have filled it to nine tenths. A small one tells nothing.
func (r *Sender) grow(lines, body int) {
	if lines < r.room/2 {
		return
	}
	r.room = min(max(lines*r.cfg.MaxRequest/max(1, body)*9/10, r.cfg.MaxRequest), 2*max(r.room, lines), r.ceiling)
}

// learn notes what a server, or a proxy before it, has found too large.
func (r *Sender) learn(err error, lines int) {
	if refusal := (*statusError)(nil); errors.As(err, &refusal) && refusal.status == http.StatusRequestEntityTooLarge {
		r.ceiling = max(minRequest, min(r.ceiling, lines/2))
		r.room = min(r.room, r.ceiling)
	}
}

// statusError is the answer of a server that did not take a request.
type statusError struct {
	status int
	after  time.Duration // that it asks us to wait
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.status, http.StatusText(e.status))
}

// RetryAfter is how long the server that refused a request asks us to wait; 0: it does not.
func RetryAfter(err error) time.Duration {
	if refusal, ok := errors.AsType[*statusError](err); ok {
		return refusal.after
	}
	return 0
}

// tooMuch reports whether a request with less may succeed: it is too large, or one of its events is not to the server's taste.
func tooMuch(err error) bool {
	refusal, ok := errors.AsType[*statusError](err)
	if !ok {
		return errors.Is(err, errLarge)
	}
	switch refusal.status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// post sends one request. Any 2xx means that the server has it.
func (r *Sender) post(ctx context.Context, body []byte, mediaType string) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	response, err := r.cfg.Post(ctx, http.Header{"Content-Type": {mediaType}, "Content-Encoding": {"gzip"}}, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode < 200 || response.StatusCode > 299 {
		refusal := &statusError{status: response.StatusCode}
		if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
			refusal.after = min(time.Duration(seconds)*time.Second, maxPause)
		}
		return refusal
	}
	if err != nil {
		return nil // the status says it all
	}
	if n, err := r.format.accepted(answer); n > 0 {
		r.refused(n, err)
	}
	return nil
}

// What is left of an event that is too large for a request, or that the server refuses: less each time. The event itself is
// always sent.
const maxStripped = 3

var stripKeeps = []string{"decision_id", "timestamp", "format", "labels", "trace_id", "span_id", "outcome", "reason", "status", "dry_run", "metrics", "gap"}

func strip(line []byte, level int) []byte {
	ev, err := events.ParseLine(line)
	if err != nil {
		return line // cannot be: it is our own
	}
	ev.Erase("input")
	if level > 1 {
		ev.Erase("result")
		ev.Erase("facts")
	}
	if level > 2 {
		ev.KeepOnly(stripKeeps...)
	}
	out, err := ev.Append(nil)
	if err != nil {
		return line
	}
	return out
}
