package server

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"gatehouse/panics"
)

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
