package main

import (
	"context"
	"net"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// noopServer unmarshals a request and answers OK: the yardstick.
type noopServer struct {
	authv3.UnimplementedAuthorizationServer
}

func (noopServer) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil
}

// serveNoop serves at addresses (host:port or unix:/path, separated by commas) until ctx ends. It is grpc-go as it comes.
func serveNoop(ctx context.Context, addresses string) error {
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, noopServer{})
	ended := make(chan error, 8)
	for address := range strings.SplitSeq(addresses, ",") {
		kind, at := "tcp", address
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			kind, at = "unix", path
		}
		l, err := net.Listen(kind, at)
		if err != nil {
			return err
		}
		go func() { ended <- s.Serve(l) }()
	}
	select {
	case <-ctx.Done():
		s.Stop()
		return nil
	case err := <-ended:
		return err
	}
}
