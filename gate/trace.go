package gate

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Traces makes one span of each Check, as a child of the span that the proxy's headers name. nil makes none and costs
// nothing.
type Traces struct {
	Tracer     trace.Tracer
	Propagator propagation.TextMapPropagator
}

// carrier is a request's headers as a propagator reads them.
type carrier struct{ headers Headers }

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(name string) string { return c.headers.Get(name) }

// Set implements propagation.TextMapCarrier. What came is not changed.
func (carrier) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (c carrier) Keys() []string {
	names := make([]string, len(c.headers))
	for i, h := range c.headers {
		names[i] = h.Name
	}
	return names
}

// begin opens the span of a Check, nil where there are no traces.
func (t *Traces) begin(ctx context.Context, c *call) (context.Context, trace.Span) {
	if t == nil {
		return ctx, nil
	}
	ctx, span := t.Tracer.Start(t.Propagator.Extract(ctx, carrier{c.req.Headers}), "gatehouse.check",
		trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(c.started))
	c.span = span.SpanContext()
	return ctx, span
}

// end closes the span with what came of the Check. Status is Error for failures of ours and of the policy, not for
// denials: a denial is the service doing its work.
func (t *Traces) end(span trace.Span, c *call, a *Answer) {
	if span == nil {
		return
	}
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("gatehouse.decision_id", c.id),
			attribute.String("gatehouse.outcome", outcomeLabels[c.outcome(a)]),
			attribute.String("gatehouse.reason", a.Reason.String()),
			attribute.Int("http.response.status_code", a.Status),
			attribute.String("http.request.method", c.req.Method),
			attribute.String("url.path", c.shown().Path(c.target.raw)),
		)
		if c.match.Route != nil {
			span.SetAttributes(attribute.String("http.route", c.match.Route.Template))
		}
		if c.view != nil {
			span.SetAttributes(attribute.String("gatehouse.revision", c.view.revision))
		}
		if a.Reason.Status() >= 500 {
			span.SetStatus(codes.Error, a.Reason.String())
		}
	}
	span.End()
}
