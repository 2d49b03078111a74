package server

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/contrib/propagators/b3"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/panics"
)

func validateLog(c config.Log) error {
	var errs []error
	if l, err := zapcore.ParseLevel(c.Level); err != nil || l < zapcore.DebugLevel || l > zapcore.ErrorLevel {
		errs = append(errs, config.Wrong("log.level", "%q is none of debug, info, warn, error", c.Level))
	}
	if c.Format != "json" && c.Format != "console" {
		errs = append(errs, config.Wrong("log.format", "%q is neither json nor console", c.Format))
	}
	return errors.Join(errs...)
}

func setLevel(c config.Log, level zap.AtomicLevel) {
	if l, err := zapcore.ParseLevel(c.Level); err == nil {
		level.SetLevel(l)
	}
}

// build makes the operators' log: in other's hands, or on standard error, in JSON or for people. It is usable also where it is not as wished.
func buildLog(c config.Log, level zap.AtomicLevel, other zapcore.Core) (*zap.Logger, error) {
	setLevel(c, level)
	if other != nil {
		return zap.New(other), validateLog(c)
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	if c.Format == "console" {
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	core := zapcore.NewSamplerWithOptions(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), level), time.Second, 50, 100)
	return zap.New(core), validateLog(c)
}

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

// errPanicked is what a caller of the health service, or of reflection, gets. A Check never gets here: it has a denial of its own.
var errPanicked = grpcstatus.Error(codes.Internal, "internal error")

func recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("answering "+info.FullMethod, p)
			out, err = nil, errPanicked
		}
	}()
	return next(ctx, req)
}

func recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("answering "+info.FullMethod, p)
			err = errPanicked
		}
	}()
	return next(srv, stream)
}

// served runs an accepting loop. A panic in it ends the process in order, as any other error of it does: nobody would listen any more.
func served(where string, serve func() error) (err error) {
	defer panics.Into(where, &err)
	return serve()
}

// gatherPanics is the metric of panics outside of decisions.
func gatherPanics() ([]*dto.MetricFamily, error) {
	count := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_panics_total",
		Help: "Recovered panics, by what the goroutine was doing. Each is a bug in Gatehouse."}, []string{"where"})
	for where, n := range panics.Counts() {
		count.WithLabelValues(where).Add(float64(n))
	}
	r := prometheus.NewRegistry()
	r.MustRegister(count)
	return r.Gather()
}
