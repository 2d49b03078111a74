// Package topaz serves the gRPC services by which the clients of Aserto's Topaz ask a directory and a policy: aserto.directory.*.v3 and
// aserto.authorizer.v2. It owns the messages (topaz/pb, made from topaz/pb/proto), how they read one snapshot of the active View, and who
// may ask. Authorizer asks the gate, which decides and logs; nothing here decides.
//
// It may import gate, directory, identity's results and what gate imports.
package topaz

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gatehouse/directory"
	"gatehouse/directory/journal"
	"gatehouse/gate"
	"gatehouse/topaz/pb/authorizer"
	"gatehouse/topaz/pb/exporter"
	"gatehouse/topaz/pb/importer"
	"gatehouse/topaz/pb/model"
	"gatehouse/topaz/pb/reader"
	"gatehouse/topaz/pb/writer"
)

// Bounds of one call.
const (
	// MaxMessage bounds a message, in bytes.
	MaxMessage = 4 << 20
	maxCall    = 30 * time.Second
	maxStream  = 10 * time.Minute // Import, Export
	maxPage    = 100
	maxChecks  = 1000
	maxAsked   = 1000 // decisions of one call
)

// Client is who called, by its key.
type Client struct {
	ID string // of the key
	// ActAs lets it ask about any user by name (IDENTITY_TYPE_SUB, IDENTITY_TYPE_MANUAL), rather than by a token that the user gave it.
	ActAs      bool
	Write      bool // it may change the directory
	ReadPolicy bool // it may see what the policy consists of
	Query      bool // it may send queries of its own, where the node takes them
}

// Config is what the services are made of.
type Config struct {
	Gate *gate.Gate
	// Authenticate finds the client of a key. Its error is not told to the client.
	Authenticate func(key string) (Client, error)
	// Write changes the directory; nil: this node does not own it.
	Write   func(context.Context, journal.Write) (*directory.Snapshot, error)
	Queries bool             // queries that clients write are evaluated
	Version string           // of this release
	Clock   func() time.Time // nil: time.Now
}

// Service is all of the services.
type Service struct {
	with Config
}

// New makes the services.
func New(with Config) *Service {
	if with.Clock == nil {
		with.Clock = time.Now
	}
	if with.Write == nil {
		with.Write = func(context.Context, journal.Write) (*directory.Snapshot, error) { return nil, journal.ErrReadOnly }
	}
	return &Service{with: with}
}

// Register adds them to a server, which must have been made with ServerOptions.
func (s *Service) Register(to *grpc.Server) {
	reader.RegisterReaderServer(to, &readerService{Service: s})
	model.RegisterModelServer(to, &modelService{Service: s})
	exporter.RegisterExporterServer(to, &exporterService{Service: s})
	writer.RegisterWriterServer(to, &writerService{Service: s})
	importer.RegisterImporterServer(to, &importerService{Service: s})
	authorizer.RegisterAuthorizerServer(to, &authorizerService{Service: s})
}

// ServerOptions are what a server needs for the services: bounds, and a client's key in each call.
func (s *Service) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.ChainUnaryInterceptor(s.unary), grpc.ChainStreamInterceptor(s.stream)}
}

type clientKey struct{}

// clientOf is who called.
func clientOf(ctx context.Context) Client {
	c, _ := ctx.Value(clientKey{}).(Client)
	return c
}

// authenticate finds the client, and bounds its call.
func (s *Service) authenticate(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc, error) {
	client, err := s.client(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, clientKey{}, client), most)
	return ctx, cancel, nil
}

// client is who calls, by the keys as they are now.
func (s *Service) client(ctx context.Context) (Client, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	values := in.Get("authorization")
	if len(values) != 1 {
		return Client{}, status.Error(codes.Unauthenticated, "give one key: authorization: basic KEY, or Bearer KEY")
	}
	client, err := s.with.Authenticate(Key(values[0]))
	if err != nil {
		return Client{}, status.Error(codes.Unauthenticated, "the key is not known, or not valid now")
	}
	return client, nil
}

// Key takes the key out of an authorization header, "basic KEY" as Aserto's clients write it or "Bearer KEY"; "" where there is none.
func Key(authorization string) string {
	scheme, key, found := strings.Cut(authorization, " ")
	if !found || !strings.EqualFold(scheme, "basic") && !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(key)
}

func (s *Service) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, cancel, err := s.authenticate(ctx, maxCall)
	if err != nil {
		return nil, err
	}
	defer cancel()
	return next(ctx, req)
}

func (s *Service) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, cancel, err := s.authenticate(stream.Context(), maxStream)
	if err != nil {
		return err
	}
	defer cancel()
	return next(srv, &boundStream{stream, ctx})
}

type boundStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *boundStream) Context() context.Context { return s.ctx }

// directory is the active snapshot: one for the whole of a call.
func (s *Service) directory() (*directory.Snapshot, error) {
	if d := s.with.Gate.View().Directory; d != nil {
		return d, nil
	}
	return nil, status.Error(codes.Unavailable, "there is no directory: set directory.file, or look why it could not be loaded")
}
