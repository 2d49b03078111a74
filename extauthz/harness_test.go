package extauthz_test

import (
	"net"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// compile makes a snapshot of one Rego module.
func compile(t testing.TB, rego string) *policy.Snapshot { t.Helper(); return gatetest.Policy(t, rego) }

func plain() bool { return gatetest.Plain() }

func settings() *gate.Settings { return gatetest.Settings() }

// connection serves a gate on loopback and returns a connection to it, as Envoy has one.
func connection(t testing.TB, cfg gate.Config, parts ...gate.Part) *grpc.ClientConn {
	t.Helper()
	g := gatetest.Start(t, cfg, parts...)
	options := extauthz.ServerOptions()
	if plain() {
		options = extauthz.PlainServerOptions()
	}
	server := grpc.NewServer(options...)
	extauthz.New(g, cfg.Logger).Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-ended
	})
	return conn
}

// client is connection with one policy and settings.
func client(t testing.TB, s *gate.Settings, p *policy.Snapshot) authv3.AuthorizationClient {
	t.Helper()
	return authv3.NewAuthorizationClient(connection(t, gate.Config{}, gatetest.With(t, s, p)))
}
