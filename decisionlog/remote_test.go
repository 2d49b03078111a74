package decisionlog_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"gatehouse/decisionlog"
	"gatehouse/decisionlog/remote"
	"gatehouse/input"
)

// failure is how a receiver fails. It returns true where it has answered. body takes the events.
type failure func(w http.ResponseWriter, r *http.Request, body func() []map[string]any) bool

// receiver is a server that takes events, or fails as it is told to.
type receiver struct {
	*httptest.Server

	mu     sync.Mutex // guards what follows
	fail   failure
	cond   *sync.Cond
	events []map[string]any // in the order in which they came, repetitions among them
	sizes  []int            // of the requests that were taken
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.cond = sync.NewCond(&r.mu)
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body := func() []map[string]any {
		raw, err := io.ReadAll(req.Body)
		if err != nil {
			return nil
		}
		var events []map[string]any
		in, err := gzip.NewReader(bytes.NewReader(raw))
		if err == nil {
			err = json.NewDecoder(in).Decode(&events)
		}
		if req.Method != http.MethodPost || req.Header.Get("Content-Encoding") != "gzip" || req.Header.Get("Content-Type") != "application/json" {
			err = fmt.Errorf("%s %v", req.Method, req.Header)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.events = append(r.events, events...); err != nil {
			r.events = append(r.events, map[string]any{"error": err.Error()})
		}
		r.sizes = append(r.sizes, len(raw))
		r.cond.Broadcast()
		return events
	}
	r.mu.Lock()
	fail := r.fail
	r.mu.Unlock()
	if fail == nil || !fail(w, req, body) {
		body()
	}
}

func (r *receiver) failWith(f failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = f
}

// await waits for so many different events.
func (r *receiver) await(n int) []map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(unique(r.events)) < n {
		r.cond.Wait()
	}
	return slices.Clone(r.events)
}

// unique leaves of events with one id the first.
func unique(events []map[string]any) (out []map[string]any) {
	seen := map[any]bool{}
	for _, e := range events {
		if id := e["decision_id"]; !seen[id] {
			seen[id] = true
			out = append(out, e)
		}
	}
	return out
}

// serverAt is a sink's server at a URL.
func serverAt(url string) *remote.Server {
	client := &http.Client{Transport: &http.Transport{}}
	return &remote.Server{URL: url, Delay: time.Millisecond, Close: client.CloseIdleConnections,
		Post: func(ctx context.Context, header http.Header, body []byte) (*http.Response, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
			if err != nil {
				return nil, err
			}
			req.Header = header
			return client.Do(req)
		}}
}

// toOPA is a log with a server for its only sink.
func toOPA(t *testing.T, url string) decisionlog.Config {
	cfg := small(t.TempDir())
	cfg.File, cfg.Sinks = "", []decisionlog.Sink{{OPA: serverAt(url)}}
	return cfg
}

// areInOrder checks that the events are those from 0 to n.
func areInOrder(t *testing.T, events []map[string]any, n int) {
	t.Helper()
	for i, e := range events {
		if e["decision_id"] != fmt.Sprint(i) {
			t.Fatalf("event %d is %v %v", i, e["decision_id"], e["error"])
		}
	}
	if len(events) != n {
		t.Fatalf("%d events, want %d", len(events), n)
	}
}

func TestOPA(t *testing.T) {
	const n = 1000
	r := newReceiver(t)
	cfg := toOPA(t, r.URL+"/logs")
	cfg.MaxSize, cfg.Labels = 64<<20, map[string]string{"id": "gh-1"}
	l := open(t, cfg)
	for i := range n {
		e := usual()
		e.DecisionID = fmt.Sprint(i)
		add(t, l, e)
	}
	end := run(l)
	events := r.await(n)
	finish(t, end)
	areInOrder(t, events, n)
	e := events[7]
	if at(e, "labels/id") != "gh-1" || at(e, "bundles/app/revision") != "v17" || e["path"] != "envoy/authz/allow" || at(e, "input/parsed_path") == nil || e["timestamp"] == nil {
		t.Errorf("%v", e)
	}
	for _, size := range r.sizes {
		if size > 32<<10 {
			t.Errorf("a request of %d bytes", size)
		}
	}
	if len(r.sizes) > n/20 {
		t.Errorf("%d requests for %d events: %v", len(r.sizes), n, r.sizes)
	}
	if st := l.Status(); st.Sink != r.URL+"/logs" || st.Written != n || st.Spool.Unread != 0 {
		t.Errorf("%+v", st)
	}
}

// flakily fails at random: the network is cut, before or after the events were taken, in the middle of a body, by 500 or by a timeout.
func flakily(w http.ResponseWriter, req *http.Request, body func() []map[string]any) bool {
	cut := func() {
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			c.Close()
		}
	}
	switch rand.IntN(28) {
	case 0:
		cut()
	case 1:
		_, _ = io.CopyN(io.Discard, req.Body, 100)
		cut()
	case 2:
		http.Error(w, "later", http.StatusInternalServerError)
	case 3:
		body()
		cut()
	case 4:
		body()
		http.Error(w, "later", http.StatusServiceUnavailable)
	case 5: // it never answers
		_, _ = io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
	case 6: // nor after it has taken the events
		body()
		<-req.Context().Done()
	default:
		return false
	}
	return true
}

func TestOPAFails(t *testing.T) {
	const n = 200
	r := newReceiver(t)
	r.failWith(flakily)
	cfg := toOPA(t, r.URL)
	cfg.MaxSize = 16 << 20
	cfg.Sinks[0].OPA.MaxRequest, cfg.Sinks[0].OPA.Timeout = 4<<10, 100*time.Millisecond
	l := open(t, cfg)
	end := run(l)
	for i := range n {
		e := entry(i)
		e.Asked, e.Input.ParsedBody = true, noise(500)
		add(t, l, e)
	}
	areInOrder(t, unique(r.await(n)), n)
	finish(t, end)
}

// TestOPAHangs has a server that never answers, while another sink goes on and no append waits. The next start delivers.
func TestOPAHangs(t *testing.T) {
	const n = 100
	r := newReceiver(t)
	stuck := make(chan struct{})
	r.failWith(func(_ http.ResponseWriter, req *http.Request, _ func() []map[string]any) bool {
		_, _ = io.Copy(io.Discard, req.Body) // for the end of the connection to be noticed
		select {
		case stuck <- struct{}{}:
		case <-req.Context().Done():
		}
		<-req.Context().Done()
		return true
	})
	cfg := toOPA(t, r.URL)
	cfg.File, cfg.OnFull, cfg.DrainTimeout = filepath.Join(filepath.Dir(cfg.Dir), "d.log"), "drop", 10*time.Millisecond
	l := open(t, cfg)
	end := run(l)
	add(t, l, entry(0))
	<-stuck
	for i := 1; i < n; i++ {
		add(t, l, entry(i)) // it would fail rather than wait
	}
	awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Sinks[0].Unread == 0 })
	if st := l.Status(); st.Sinks[1].Written != 0 || st.Sinks[1].Unread == 0 || st.Dropped != 0 {
		t.Errorf("%+v", st)
	}
	finish(t, end)
	inOrder(t, cfg.File, 0, n)

	r.failWith(nil)
	cfg.DrainTimeout = 0
	finish(t, run(open(t, cfg)))
	areInOrder(t, unique(r.await(n)), n)
	inOrder(t, cfg.File, 0, n)
}

// TestOPAIsAway ends at once where a server takes nothing: what it does not have is for the next start.
func TestOPAIsAway(t *testing.T) {
	cfg := toOPA(t, "http://127.0.0.1:1/logs")
	cfg.DrainTimeout = time.Hour
	l := open(t, cfg)
	end := run(l)
	add(t, l, entry(0))
	awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Error != "" })
	finish(t, end)
	if st := l.Status(); st.Sinks[0].Unread == 0 || !strings.Contains(st.Error, "refused") {
		t.Errorf("%+v", st)
	}
}

// noise does not compress.
func noise(n int) decisionlog.Document {
	text := make([]byte, n)
	for i := range text {
		text[i] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"[rand.IntN(64)]
	}
	return doc(`"` + string(text) + `"`)
}

// TestOPATooLarge sends what is too large for a request, or for the server, in smaller requests, and in the end without its documents.
func TestOPATooLarge(t *testing.T) {
	bad := func(status int, is func(body []map[string]any) bool) failure {
		return func(w http.ResponseWriter, req *http.Request, _ func() []map[string]any) bool {
			raw, _ := io.ReadAll(req.Body)
			req.Body = io.NopCloser(bytes.NewReader(raw))
			var events []map[string]any
			in, err := gzip.NewReader(bytes.NewReader(raw))
			if err == nil {
				err = json.NewDecoder(in).Decode(&events)
			}
			if err != nil || is(events) {
				w.WriteHeader(status)
				return true
			}
			return false
		}
	}
	for _, tt := range []struct {
		name   string
		entry  decisionlog.Entry // is the second of many
		max    int
		fail   failure
		erased string
	}{
		{"input", decisionlog.Entry{Asked: true, Result: noise(10), Input: decisionlog.Input{ParsedBody: noise(3 << 10)}}, 1 << 10, nil, "[/input]"},
		{"both", decisionlog.Entry{Asked: true, Result: noise(3 << 10), Input: decisionlog.Input{ParsedBody: noise(3 << 10)}}, 1 << 10, nil, "[/input /result]"},
		{"nothing", decisionlog.Entry{Asked: true, Result: noise(3 << 10), Input: decisionlog.Input{ParsedBody: noise(3 << 10)}}, 16 << 10, nil, "<nil>"},
		{"the rest", decisionlog.Entry{Input: decisionlog.Input{Request: input.Request{Path: "/" + fmt.Sprint(noise(3<<10))}}}, 1 << 10, nil, "[/identity /request]"},
		{"413 for many", decisionlog.Entry{}, 0, bad(413, func(e []map[string]any) bool { return len(e) > 3 }), "<nil>"},
		{"413 for one", decisionlog.Entry{Asked: true, Result: noise(10)}, 0, bad(413, func(e []map[string]any) bool {
			return slices.ContainsFunc(e, func(e map[string]any) bool { return e["decision_id"] == "1" && e["input"] != nil })
		}), "[/input]"},
		{"400 for one", decisionlog.Entry{Result: noise(10)}, 0, bad(400, func(e []map[string]any) bool {
			return slices.ContainsFunc(e, func(e map[string]any) bool { return e["decision_id"] == "1" && e["result"] != nil })
		}), "[/result]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const n = 20
			r := newReceiver(t)
			r.failWith(tt.fail)
			cfg := toOPA(t, r.URL)
			cfg.Sinks[0].OPA.MaxRequest = tt.max
			cfg.MaxEntry, cfg.MaxSize = 16<<10, 16<<20
			l := open(t, cfg)
			for i := range n {
				e := entry(i)
				if i == 1 {
					e = &tt.entry
					e.DecisionID = "1"
				}
				add(t, l, e)
			}
			end := run(l)
			events := r.await(n)
			finish(t, end)
			areInOrder(t, events, n)
			if got := fmt.Sprint(events[1]["erased"]); got != tt.erased {
				t.Errorf("erased %s, want %s", got, tt.erased)
			}
			for i, e := range events {
				if i != 1 && e["erased"] != nil {
					t.Errorf("event %d lost %v", i, e["erased"])
				}
			}
			for _, size := range r.sizes {
				if tt.max > 0 && size > tt.max {
					t.Errorf("a request of %d bytes, at most %d", size, tt.max)
				}
			}
		})
	}
}

// TestOPAGap makes an event of a gap, with an id and a time.
func TestOPAGap(t *testing.T) {
	r := newReceiver(t)
	cfg := toOPA(t, r.URL)
	cfg.OnFull, cfg.Clock = "drop", func() time.Time { return time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC) }
	var working atomic.Bool
	r.failWith(func(w http.ResponseWriter, _ *http.Request, _ func() []map[string]any) bool {
		if working.Load() {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	l := open(t, cfg)
	end := run(l)
	n := 0
	for ; l.Append(context.Background(), entry(n)) == nil; n++ {
	}
	working.Store(true)
	events := r.await(n + 1)
	finish(t, end)
	areInOrder(t, events[:n], n)
	if gap := events[n]; gap["decision_id"] != "gap-2026-03-01T10:00:00Z-2026-03-01T10:00:00Z" || gap["timestamp"] != "2026-03-01T10:00:00Z" || at(gap, "gap/dropped") != 1.0 {
		t.Errorf("%v", gap)
	}
}

// collected is a server of OTLP's logs, which refuses the record that is named so.
type collected struct {
	requests chan *collector.ExportLogsServiceRequest
	refuse   int64
}

// ServeHTTP implements http.Handler.
func (c *collected) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	in, err := gzip.NewReader(req.Body)
	if err != nil || req.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "not OTLP", http.StatusUnsupportedMediaType)
		return
	}
	raw, err := io.ReadAll(in)
	var export collector.ExportLogsServiceRequest
	if err == nil {
		err = proto.Unmarshal(raw, &export)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	c.requests <- &export
	answer := &collector.ExportLogsServiceResponse{}
	if c.refuse > 0 {
		answer.PartialSuccess = &collector.ExportLogsPartialSuccess{RejectedLogRecords: c.refuse, ErrorMessage: "too old"}
	}
	text, _ := proto.Marshal(answer)
	_, _ = w.Write(text)
}

func TestOTLP(t *testing.T) {
	c := &collected{requests: make(chan *collector.ExportLogsServiceRequest, 100), refuse: 1}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	cfg := small(t.TempDir())
	reg := prometheus.NewRegistry()
	cfg.Sinks, cfg.Labels, cfg.Registerer = []decisionlog.Sink{{OTLP: serverAt(server.URL)}}, map[string]string{"region": "eu"}, reg
	l := open(t, cfg)
	e := usual()
	e.TraceID, e.SpanID, e.RequestedBy = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "10.0.0.9"
	add(t, l, e)
	denied := usual()
	denied.Outcome, denied.Reason, denied.Status, denied.DryRun = "deny", "denied", 403, true
	add(t, l, denied)
	finish(t, run(l))
	close(c.requests)
	var records []*logs.LogRecord
	requests := 0
	for export := range c.requests {
		requests++
		for _, r := range export.ResourceLogs {
			if got := attributes(r.Resource.Attributes); got != "region=eu service.name=gatehouse" {
				t.Errorf("resource %s", got)
			}
			records = append(records, r.ScopeLogs[0].LogRecords...)
		}
	}
	if len(records) != 2 {
		t.Fatalf("%d records", len(records))
	}
	want := "gatehouse.decision.id=OPXCZ3VQJZ6LTJ3V2ZJCDSR5WA gatehouse.decision.outcome=allow gatehouse.decision.path=envoy/authz/allow gatehouse.policy.revision=v17 " +
		"gatehouse.app=orders http.route=orders.show client.address=10.0.0.9 http.request.method=GET server.address=orders.example.com url.path=/orders/17 user.id=ann " +
		"http.response.status_code=200 user.roles=[viewer]"
	if got := attributes(records[0].Attributes); got != want {
		t.Errorf("attributes %s\nwant %s", got, want)
	}
	if got := attributes(records[1].Attributes); !strings.Contains(got, "gatehouse.decision.reason=denied") || !strings.Contains(got, "gatehouse.dry_run=true") {
		t.Errorf("attributes %s", got)
	}
	if r := records[0]; fmt.Sprintf("%x %x", r.TraceId, r.SpanId) != e.TraceID+" "+e.SpanID || r.TimeUnixNano != uint64(e.Time.UnixNano()) ||
		r.SeverityText != "INFO" || records[1].SeverityText != "WARN" || r.EventName != "gatehouse.decision" {
		t.Errorf("%v", r)
	}
	for i, line := range lines(t, cfg.File) {
		if body := parse(t, records[i].Body.GetStringValue()); fmt.Sprint(body) != fmt.Sprint(line) {
			t.Errorf("%v is not the line %v", body, line)
		}
	}
	if got := bySink(t, reg, "gatehouse_decision_log_refused_total"); got["otlp"] != float64(requests) {
		t.Errorf("refused %v of %d requests", got, requests)
	}
}

// attributes shows attributes in their order.
func attributes(list []*common.KeyValue) string {
	var out []string
	for _, a := range list {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			out = append(out, a.Key+"="+v.StringValue)
		case *common.AnyValue_IntValue:
			out = append(out, fmt.Sprintf("%s=%d", a.Key, v.IntValue))
		case *common.AnyValue_BoolValue:
			out = append(out, fmt.Sprintf("%s=%t", a.Key, v.BoolValue))
		case *common.AnyValue_ArrayValue:
			var each []string
			for _, one := range v.ArrayValue.Values {
				each = append(each, one.GetStringValue())
			}
			out = append(out, fmt.Sprintf("%s=%v", a.Key, each))
		}
	}
	return strings.Join(out, " ")
}
