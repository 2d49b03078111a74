package server

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"gatehouse/panics"
)

// drain tells the world that we are leaving and waits for the requests under way.
func (s *Server) drain() {
	s.draining.Store(true)
	s.health.Shutdown()
	s.logger.Info("draining", zap.Duration("timeout", time.Duration(s.config.Listen.DrainTimeout)))
	s.http.drain()
	time.Sleep(time.Duration(s.config.Listen.DrainDelay))
	close(s.leaving)
	done := make(chan struct{})
	cut := make(chan bool, 1)
	others := make(chan struct{})
	go func() {
		defer panics.Recover("ending connections to the directory")
		defer close(others)
		s.directory.stop(time.Duration(s.config.Listen.DrainTimeout))
	}()
	go func() {
		defer panics.Recover("ending HTTP connections")
		cut <- s.http.stop(time.Duration(s.config.Listen.DrainTimeout))
	}()
	go func() {
		defer panics.Recover("ending gRPC connections")
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-time.After(time.Duration(s.config.Listen.DrainTimeout)):
		s.logger.Warn("requests are still under way, stopping anyway")
		s.grpc.Stop()
		<-done
	}
	<-others
	if <-cut {
		s.logger.Warn("requests over HTTP were still under way, stopped anyway")
	}
}

// endOnDrain ends streams that would go on as long as the client likes, such as health watches, once we have said that we
// are leaving: otherwise they would hold the drain up to its end.
func (s *Server) endOnDrain(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		defer panics.Recover("ending a stream")
		select {
		case <-s.leaving:
			cancel()
		case <-ctx.Done():
		}
	}()
	return next(srv, &endingStream{ServerStream: stream, ctx: ctx})
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *endingStream) Context() context.Context { return s.ctx }
