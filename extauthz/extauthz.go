// Package extauthz is Envoy's side of Gatehouse: the gRPC service envoy.service.auth.v3.Authorization around a gate.
// It converts a CheckRequest to a gate.Request and a gate.Answer to a CheckResponse, and decides nothing.
//
// The caller always gets a CheckResponse. A gRPC error would be an allow under Envoy's failure_mode_allow, so this
// package returns none: see codec for messages that do not parse, and lastResort for answers that do not marshal.
package extauthz

import (
	"context"
	"fmt"
	"math"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"go.uber.org/zap"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"gatehouse/gate"
	"gatehouse/panics"
)

// Server answers Envoy's Check calls from a gate.
type Server struct {
	gate   *gate.Gate
	logger *zap.Logger
}

// New returns a Server around g.
func New(g *gate.Gate, logger *zap.Logger) *Server {
	if logger == nil {
		logger = zap.NewNop()
	}
	return &Server{gate: g, logger: logger}
}

// ServiceName is the name of the gRPC service, for health checks.
const ServiceName = "envoy.service.auth.v3.Authorization"

// ServerOptions are required for a grpc.Server with a Server. The message limit is above everything that Envoy can
// send: exceeding it would be a gRPC error. The product's own limit, limits.message, denies.
func ServerOptions() []grpc.ServerOption { return serverOptions(false) }

// PlainServerOptions are ServerOptions for the reference path: messages are decoded and encoded with the generated
// code only.
func PlainServerOptions() []grpc.ServerOption { return serverOptions(true) }

func serverOptions(plain bool) []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ForceServerCodecV2(Codec(plain)), grpc.MaxRecvMsgSize(math.MaxInt32)}
}

// Register adds the Authorization service to a server made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: ServiceName,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Check", Handler: handle}},
		Metadata:    authv3.Authorization_ServiceDesc.Metadata,
	}, s)
}

func handle(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var in incoming
	if err := decode(&in); err != nil {
		in.request = &gate.Request{Malformed: err}
	}
	return srv.(*Server).check(ctx, &in), nil
}

func (s *Server) check(ctx context.Context, in *incoming) (out *outgoing) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("rendering an answer", p)
			out = lastResort
		}
	}()
	answer := s.gate.Check(ctx, in.request)
	render := encode
	if in.plain {
		render = func(a *gate.Answer) ([]byte, error) { return proto.Marshal(response(a)) }
	}
	wire, err := render(&answer)
	if err != nil {
		s.logger.Error("an answer does not marshal", zap.String("decision_id", answer.DecisionID), zap.Error(err))
		return lastResort
	}
	return &outgoing{wire: wire}
}

// lastResort is a pre-encoded denial for answers that do not marshal.
var lastResort = func() *outgoing {
	wire, err := proto.Marshal(&authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_InternalServerError},
			Body:   `{"type":"about:blank","title":"Internal Server Error","status":500,"reason":"internal"}`,
		}},
	})
	if err != nil {
		panic(fmt.Sprintf("marshalling a constant: %v", err))
	}
	return &outgoing{wire: wire}
}()
