package gate_test

import (
	"context"
	"testing"

	"go.opentelemetry.io/contrib/propagators/b3"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"gatehouse/gate"
	"gatehouse/routes"
)

// TestSpans: each Check makes one span, child of the one in the request's headers, with decision and reason.
func TestSpans(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	g, err := gate.New(gate.Config{Traces: &gate.Traces{Tracer: provider.Tracer("gatehouse"),
		Propagator: propagation.NewCompositeTextMapPropagator(b3.New(), propagation.TraceContext{})}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = g.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	table, _, err := routes.Parse("routes.yaml", []byte("framework: flask\nroutes:\n  - GET /orders/<int:id>\n"))
	if err != nil {
		t.Fatal(err)
	}
	s, p := settings(), compile(t, "package envoy.authz\nallow := input.resource.id == \"17\"")
	if err := g.Publish(ctx, func(v *gate.View) {
		v.Settings, v.Policy, v.Routes = s, p, map[string]*routes.Table{"": table}
	}); err != nil {
		t.Fatal(err)
	}
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for name, tt := range map[string]struct {
		path, header, value       string
		outcome, reason, template string // outcome "": no span
	}{
		"W3C, allowed":    {"/orders/17", "traceparent", "00-" + trace + "-" + parent + "-01", "allow", "", "/orders/<int:id>"},
		"W3C, denied":     {"/orders/18", "traceparent", "00-" + trace + "-" + parent + "-01", "deny", "denied", "/orders/<int:id>"},
		"B3":              {"/orders/17", "b3", trace + "-" + parent + "-1", "allow", "", "/orders/<int:id>"},
		"no route":        {"/nothing", "b3", trace + "-" + parent + "-1", "deny", "no_route", ""},
		"not sampled":     {"/orders/17", "traceparent", "00-" + trace + "-" + parent + "-00", "", "", ""},
		"no parent":       {"/orders/17", "x-other", "", "", "", ""},
		"a broken parent": {"/orders/17", "traceparent", "00-zz-" + parent + "-01", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			spans.Reset()
			answer := g.Check(ctx, get(tt.path, tt.header, tt.value))
			ended := spans.Ended()
			if tt.outcome == "" {
				if len(ended) != 0 {
					t.Fatalf("%d spans, want none", len(ended))
				}
				return
			}
			if len(ended) != 1 {
				t.Fatalf("%d spans, want one", len(ended))
			}
			span := ended[0]
			if got := span.SpanContext().TraceID().String(); got != trace {
				t.Errorf("trace %s, want %s", got, trace)
			}
			if got := span.Parent().SpanID().String(); got != parent {
				t.Errorf("parent %s, want %s", got, parent)
			}
			attributes := attribute.NewSet(span.Attributes()...)
			for key, want := range map[attribute.Key]string{"gatehouse.outcome": tt.outcome, "gatehouse.reason": tt.reason, "http.route": tt.template,
				"gatehouse.decision_id": answer.DecisionID, "gatehouse.revision": g.View().Policy.Revision()} {
				if got, _ := attributes.Value(key); got.AsString() != want {
					t.Errorf("%s is %q, want %q", key, got.AsString(), want)
				}
			}
		})
	}
}
