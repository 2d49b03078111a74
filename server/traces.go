package server

import (
	"context"
	"time"

	"go.opentelemetry.io/contrib/propagators/b3"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"gatehouse/config"
	"gatehouse/gate"
)

// buildTraces makes the tracer and what flushes it at the end. Spans wait in a bounded queue and are dropped when it is full:
// a collector that is slow or away never holds a request up.
func buildTraces(ctx context.Context, c config.Traces, version string) (*gate.Traces, func(context.Context) error, error) {
	if c.OTLP == "" {
		return nil, func(context.Context) error { return nil }, nil
	}
	if c.Ratio < 0 || c.Ratio > 1 {
		return nil, nil, config.Wrong("traces.ratio", "must be from 0 to 1")
	}
	if _, _, err := network(c.OTLP); err != nil {
		return nil, nil, config.Wrong("traces.otlp", "%w", err)
	}
	options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(c.OTLP), otlptracegrpc.WithTimeout(5 * time.Second)}
	if c.Insecure {
		options = append(options, otlptracegrpc.WithInsecure())
	}
	exporter, err := otlptracegrpc.New(ctx, options...) // connects when there is something to send
	if err != nil {
		return nil, nil, config.Wrong("traces.otlp", "%w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.Ratio))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "gatehouse"), attribute.String("service.version", version))))
	return &gate.Traces{
		Tracer:     provider.Tracer("gatehouse"),
		Propagator: propagation.NewCompositeTextMapPropagator(b3.New(), propagation.TraceContext{}),
	}, provider.Shutdown, nil
}
