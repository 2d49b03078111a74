package envoy_test

import (
	"context"
	"encoding/hex"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"gatehouse/envoy/sandbox"
)

// receiver is an OTLP collector that keeps what it gets.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	spans chan span
}

type span struct {
	*tracev1.Span
	service string
}

func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, resource := range req.GetResourceSpans() {
		service := ""
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				r.spans <- span{s, service}
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func startReceiver(t *testing.T) (*receiver, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, server := &receiver{spans: make(chan span, 1000)}, grpc.NewServer()
	collector.RegisterTraceServiceServer(server, r)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r, l.Addr().String()
}

// traced is a sandbox whose Gatehouse has the given traces section, {OTLP} replaced.
func traced(t *testing.T, traces string) (*sandbox.Sandbox, *receiver) {
	t.Helper()
	r, address := startReceiver(t)
	dir := withDoors(t, []door{{Port: 8080, App: 8000, Authz: []int{9191}}}, "flask", "outcomes")
	if traces != "" {
		amend(t, filepath.Join(dir, "gatehouse.yaml"), "limits:", strings.ReplaceAll(traces, "{OTLP}", address)+"\nlimits:")
	}
	return start(t, sandbox.Config{App: dir}), r
}

// collected stops Gatehouse, which delivers what is left, and returns all spans.
func collected(t *testing.T, s *sandbox.Sandbox, r *receiver) []span {
	t.Helper()
	if code, err := s.StopGatehouse(); err != nil || code != 0 {
		t.Errorf("gatehouse exits with %d (%v)", code, err)
	}
	var all []span
	for len(r.spans) > 0 {
		all = append(all, <-r.spans)
	}
	return all
}

const (
	traceID, parentID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	otherTrace        = "80f198ee56343ba864fe8b2a57d3eff7"
)

// parents are ways to name the span that a request belongs to, and whether it is sampled.
var parents = []struct {
	name    string
	header  http.Header
	sampled bool
	trace   string
}{
	{"W3C", http.Header{"Traceparent": {"00-" + traceID + "-" + parentID + "-01"}}, true, traceID},
	{"W3C, not sampled", http.Header{"Traceparent": {"00-" + traceID + "-" + parentID + "-00"}}, false, ""},
	{"B3, one header", http.Header{"B3": {traceID + "-" + parentID + "-1"}}, true, traceID},
	{"B3, one header, debug", http.Header{"B3": {traceID + "-" + parentID + "-d"}}, true, traceID},
	{"B3, one header, not sampled", http.Header{"B3": {traceID + "-" + parentID + "-0"}}, false, ""},
	{"B3, several headers", http.Header{"X-B3-Traceid": {traceID}, "X-B3-Spanid": {parentID}, "X-B3-Sampled": {"1"}}, true, traceID},
	{"B3, several headers, not sampled", http.Header{"X-B3-Traceid": {traceID}, "X-B3-Spanid": {parentID}, "X-B3-Sampled": {"0"}}, false, ""},
	{"both, W3C counts", http.Header{"Traceparent": {"00-" + otherTrace + "-" + parentID + "-01"}, "B3": {traceID + "-" + parentID + "-1"}}, true, otherTrace},
	{"malformed", http.Header{"Traceparent": {"00-zz-" + parentID + "-01"}}, false, ""},
	{"none", nil, false, ""},
}

// One span for each Check below a sampled parent, none below another, and none without a parent while ratio is 0.
func TestSpansFollowTheirParent(t *testing.T) {
	t.Parallel()
	s, r := traced(t, `traces: {otlp: "{OTLP}", insecure: true}`)
	var want []string
	for _, p := range parents {
		if got := ask(t, s, sandbox.Call{Path: "/headers/allow", Header: p.header}); got.Status != 200 {
			t.Fatalf("%s: %d %s", p.name, got.Status, got.Body)
		}
		if p.sampled {
			want = append(want, p.trace+"-"+parentID)
		}
	}
	var got []string
	ids := map[string]bool{}
	for _, sp := range collected(t, s, r) {
		got = append(got, hex.EncodeToString(sp.GetTraceId())+"-"+hex.EncodeToString(sp.GetParentSpanId()))
		ids[hex.EncodeToString(sp.GetSpanId())] = true
		if sp.service != "gatehouse" || sp.GetName() != "gatehouse.check" || sp.GetKind() != tracev1.Span_SPAN_KIND_SERVER {
			t.Errorf("span %q of service %q, kind %s", sp.GetName(), sp.service, sp.GetKind())
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || len(ids) != len(want) {
		t.Errorf("spans %q with %d ids, want %q", got, len(ids), want)
	}
}

// A span says what came of the request, and is an error only where something of ours or of the policy failed.
func TestSpansTellTheOutcome(t *testing.T) {
	t.Parallel()
	s, r := traced(t, `traces: {otlp: "{OTLP}", insecure: true, ratio: 1}`)
	token := s.Token("vera", "viewer")
	type told struct {
		path, outcome, reason string
		status                int64
		failed                bool
	}
	want := map[string]told{}
	for _, w := range []told{
		{"/headers/allow", "allow", "", 200, false},
		{"/headers/deny", "deny", "denied", 403, false},
		{"/headers/undefined", "deny", "no_decision", 403, false},
		{"/headers/conflict", "deny", "policy_error", 500, true},
		{"/headers/endless", "deny", "timeout", 504, true},
		{"/headers//twice", "deny", "bad_request", 400, false},
	} {
		got := ask(t, s, sandbox.Call{Path: w.path + "?secret=1", Token: token})
		if int64(got.Status) != w.status {
			t.Errorf("%s: %d %s, want %d", w.path, got.Status, got.Body, w.status)
		}
		want[w.path] = w
	}
	all := collected(t, s, r)
	if len(all) != len(want) {
		t.Errorf("%d spans, want %d", len(all), len(want))
	}
	for _, sp := range all {
		text, status := map[string]string{}, int64(0)
		for _, a := range sp.GetAttributes() {
			text[a.GetKey()] = a.GetValue().GetStringValue()
			if a.GetKey() == "http.response.status_code" {
				status = a.GetValue().GetIntValue()
			}
			if contains(a.GetValue().String(), "secret") || contains(a.GetValue().String(), token) {
				t.Errorf("attribute %s tells %q", a.GetKey(), a.GetValue())
			}
		}
		got := told{text["url.path"], text["gatehouse.outcome"], text["gatehouse.reason"], status, sp.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR}
		if got != want[got.path] {
			t.Errorf("span %+v, want %+v", got, want[got.path])
		}
		if text["gatehouse.decision_id"] == "" || text["gatehouse.revision"] == "" || text["http.request.method"] != "GET" || len(sp.GetParentSpanId()) != 0 {
			t.Errorf("span of %s: %v, parent %x", got.path, text, sp.GetParentSpanId())
		}
		if took := time.Duration(sp.GetEndTimeUnixNano() - sp.GetStartTimeUnixNano()); took <= 0 || took > hangGuard {
			t.Errorf("span of %s took %v", got.path, took)
		}
	}
}

// Off by default: nobody is connected to, whatever the request says.
func TestNoSpansByDefault(t *testing.T) {
	t.Parallel()
	s, r := traced(t, "")
	if got := ask(t, s, sandbox.Call{Path: "/headers/allow", Header: parents[0].header}); got.Status != 200 {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	if all := collected(t, s, r); len(all) != 0 {
		t.Errorf("%d spans", len(all))
	}
}

// A collector that is away costs nothing but its spans.
func TestCollectorAway(t *testing.T) {
	s, _ := traced(t, `traces: {otlp: "`+at(freePort(t))+`", insecure: true, ratio: 1}`)
	for range 20 {
		if got := ask(t, s, sandbox.Call{Path: "/headers/allow"}); got.Status != 200 { // Envoy waits less than an exporter does
			t.Errorf("%d %s", got.Status, got.Body)
		}
	}
	if code, err := s.StopGatehouse(); err != nil || code != 0 {
		t.Errorf("gatehouse exits with %d (%v)", code, err)
	}
}
