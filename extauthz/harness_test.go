package extauthz_test

import (
	"context"
	"net"
	"os"
	"testing"
	"testing/fstest"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// compile makes a snapshot of one Rego module.
func compile(t testing.TB, rego string) *policy.Snapshot {
	t.Helper()
	b, err := policy.Read("test", fstest.MapFS{"policy.rego": {Data: []byte(rego)}}, policy.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(t.Context(), policy.Config{Decision: "envoy/authz/allow"}, []*policy.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// plain says whether the tests are to run on the reference path, without anything that only makes it faster.
func plain() bool { return os.Getenv("GATEHOUSE_PLAIN") == "1" }

func settings() *gate.Settings {
	return &gate.Settings{
		Plain:   plain(),
		Headers: gate.IdentityHeaders{Subject: "x-auth-subject", Roles: "x-auth-roles"},
		Apps:    []gate.App{{Decision: []string{"envoy", "authz", "allow"}}},
		Timeout: time.Second,
		Limits:  gate.Limits{Message: 1 << 20, Headers: 256},
	}
}

// connection serves a gate on loopback and returns a connection to it, as Envoy has one.
func connection(t testing.TB, cfg gate.Config, parts ...gate.Part) *grpc.ClientConn {
	t.Helper()
	g, err := gate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { _ = g.Run(ctx); ended <- struct{}{} }()
	if err := g.Publish(ctx, parts...); err != nil {
		t.Fatal(err)
	}
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
	go func() { _ = server.Serve(l); ended <- struct{}{} }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		cancel()
		<-ended
		<-ended
	})
	return conn
}

// client is connection with one policy and settings.
func client(t testing.TB, s *gate.Settings, p *policy.Snapshot) authv3.AuthorizationClient {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return authv3.NewAuthorizationClient(connection(t, gate.Config{}, func(v *gate.View) { v.Settings, v.Policy = s, p }))
}
