package extauthz_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"gatehouse/gate"
)

// row is one request with the answer that opa-envoy-plugin gave to it.
type row struct {
	Name      string
	Group     string
	Request   json.RawMessage
	Response  json.RawMessage
	GRPCError string `json:"grpc_error"`
	Ours      string // what Gatehouse does differently, on purpose
}

// TestConformance replays the recorded requests. Where a row names a difference, the difference is what is tested.
func TestConformance(t *testing.T) {
	rego, err := os.ReadFile("testdata/conformance/policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	s := settings()
	s.Paths = gate.PathRules{Compat: true}
	c := client(t, s, compile(t, string(rego)))
	rows := corpus(t)
	if len(rows) != 133 {
		t.Fatalf("the corpus has %d rows, want 133", len(rows))
	}
	for _, r := range rows {
		t.Run(r.Group+"/"+r.Name, func(t *testing.T) {
			var req authv3.CheckRequest
			if err := protojson.Unmarshal(r.Request, &req); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second answer may be the first one, remembered
				got, err := c.Check(t.Context(), &req)
				if err != nil {
					t.Fatalf("gRPC error: %v", err)
				}
				if r.Ours != "" {
					checkDifference(t, r, got)
					continue
				}
				var want authv3.CheckResponse
				if err := protojson.Unmarshal(r.Response, &want); err != nil {
					t.Fatal(err)
				}
				compare(t, &want, got)
			}
		})
	}
}

func corpus(t testing.TB) []row {
	t.Helper()
	f, err := os.Open("testdata/conformance/corpus.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rows []row
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	return rows
}

// checkDifference holds a row's recorded difference, a sentence, against what came.
func checkDifference(t *testing.T, r row, got *authv3.CheckResponse) {
	t.Helper()
	denied := func(status int, reason string) {
		t.Helper()
		d := got.GetDeniedResponse()
		if d == nil || int(d.GetStatus().GetCode()) != status || got.GetStatus().GetCode() == 0 {
			t.Fatalf("got %v, want a %d denial", got, status)
		}
		var problem struct{ Reason string }
		if err := json.Unmarshal([]byte(d.GetBody()), &problem); err != nil || problem.Reason != reason {
			t.Errorf("body %q, want reason %q", d.GetBody(), reason)
		}
	}
	switch {
	case strings.HasPrefix(r.Ours, "a 400 denial without the parser's text"):
		denied(http.StatusBadRequest, "bad_request")
	case strings.HasPrefix(r.Ours, "a 500 denial with reason policy_error"):
		denied(http.StatusInternalServerError, "policy_error")
	case strings.HasPrefix(r.Ours, "a 403 denial with reason no_decision"):
		denied(http.StatusForbidden, "no_decision")
	case strings.HasPrefix(r.Ours, "media types are case-insensitive"):
		if body := header(got.GetOkResponse().GetHeaders(), "x-body"); body == "null" || body == "" {
			t.Errorf("x-body is %q, want it parsed", body)
		}
	default:
		t.Fatalf("nothing tests the difference %q", r.Ours)
	}
}

func header(options []*corev3.HeaderValueOption, name string) string {
	for _, o := range options {
		if o.GetHeader().GetKey() == name {
			return o.GetHeader().GetValue()
		}
	}
	return ""
}

// compare holds an answer against a recorded one: header lists sorted by name, values that hold JSON compared as JSON,
// status.message ignored; a denial recorded without a body may carry one, and any denial the headers that ours all carry.
func compare(t *testing.T, want, got *authv3.CheckResponse) {
	t.Helper()
	if w, g := want.GetStatus().GetCode(), got.GetStatus().GetCode(); w != g {
		t.Errorf("status code %d, want %d", g, w)
	}
	metadata := got.GetDynamicMetadata().AsMap()
	if id, _ := metadata["decision_id"].(string); id == "" {
		t.Errorf("no decision_id in %v", metadata)
	}
	metadata["decision_id"] = "ID"
	if d := gocmp.Diff(want.GetDynamicMetadata().AsMap(), metadata); d != "" && want.GetDynamicMetadata() != nil {
		t.Errorf("dynamic metadata (-want +got):\n%s", d)
	}
	if want.GetDeniedResponse() != nil {
		compareDenied(t, want.GetDeniedResponse(), got.GetDeniedResponse())
		return
	}
	if got.GetDeniedResponse() != nil {
		t.Fatalf("denied: %v", got)
	}
	w, g := want.GetOkResponse(), got.GetOkResponse()
	for _, d := range []string{
		gocmp.Diff(headers(w.GetHeaders()), headers(g.GetHeaders())),
		gocmp.Diff(headers(w.GetResponseHeadersToAdd()), headers(g.GetResponseHeadersToAdd())),
		gocmp.Diff(w.GetHeadersToRemove(), g.GetHeadersToRemove()),
		gocmp.Diff(w.GetQueryParametersToRemove(), g.GetQueryParametersToRemove()),
		gocmp.Diff(query(w.GetQueryParametersToSet()), query(g.GetQueryParametersToSet())),
	} {
		if d != "" {
			t.Errorf("ok response (-want +got):\n%s", d)
		}
	}
}

func compareDenied(t *testing.T, want, got *authv3.DeniedHttpResponse) {
	t.Helper()
	status := want.GetStatus().GetCode()
	if status == 0 {
		status = http.StatusForbidden
	}
	if got.GetStatus().GetCode() != status {
		t.Errorf("HTTP status %v, want %v", got.GetStatus().GetCode(), status)
	}
	if want.GetBody() != "" && got.GetBody() != want.GetBody() {
		t.Errorf("body %q, want %q", got.GetBody(), want.GetBody())
	}
	have := headers(got.GetHeaders())
	for _, h := range headers(want.GetHeaders()) {
		if !slices.ContainsFunc(have, func(g line) bool { return gocmp.Equal(g, h) }) {
			t.Errorf("header %v is missing from %v", h, have)
		}
	}
	if header(got.GetHeaders(), "x-decision-id") == "" {
		t.Error("no x-decision-id")
	}
}

type line struct {
	Name  string
	Value any
}

func headers(options []*corev3.HeaderValueOption) []line {
	var out []line
	for _, o := range options {
		l := line{Name: o.GetHeader().GetKey(), Value: o.GetHeader().GetValue()}
		var doc any
		if json.Unmarshal([]byte(o.GetHeader().GetValue()), &doc) == nil {
			l.Value = doc
		}
		out = append(out, l)
	}
	slices.SortStableFunc(out, func(a, b line) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func query(parameters []*corev3.QueryParameter) []line {
	var out []line
	for _, p := range parameters {
		out = append(out, line{Name: p.GetKey(), Value: p.GetValue()})
	}
	slices.SortStableFunc(out, func(a, b line) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
