package envoy_test

//lint:file-ignore SA1019 what Envoy does with the deprecated "append" is part of what is held here

import (
	"context"
	"net"
	"net/http"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"gatehouse/envoy/sandbox"
)

// These tests hold what Gatehouse relies on in Envoy's handling of a CheckResponse, with a server that answers from a table
// in Gatehouse's place. A new Envoy that behaves otherwise fails here first, with the name of the assumption.

// answers is an ext_authz server: the request's path chooses the answer.
type answers struct {
	authv3.UnimplementedAuthorizationServer
	byPath map[string]*authv3.CheckResponse
}

func (a answers) Check(_ context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return a.byPath[req.GetAttributes().GetRequest().GetHttp().GetPath()], nil
}

// option is one header to set. The zero HeaderValueOption says neither append nor append_action.
func option(value string, with *corev3.HeaderValueOption) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: "x-auth-subject", Value: value},
		Append:       with.GetAppend(),
		AppendAction: with.GetAppendAction(),
	}
}

var (
	unset     = &corev3.HeaderValueOption{}
	noAppend  = &corev3.HeaderValueOption{Append: wrapperspb.Bool(false)}
	doAppend  = &corev3.HeaderValueOption{Append: wrapperspb.Bool(true)}
	overwrite = &corev3.HeaderValueOption{AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
)

func allow(ok *authv3.OkHttpResponse) *authv3.CheckResponse {
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}}
}

func deny(code codes.Code, headers ...*corev3.HeaderValueOption) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{Code: int32(code)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Headers: headers}},
	}
}

// startAnswers runs the server, and the echo application behind an Envoy that asks it.
func startAnswers(t *testing.T, byPath map[string]*authv3.CheckResponse) *sandbox.Sandbox {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, answers{byPath: byPath})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return start(t, sandbox.Config{App: echoApp(t), Authz: listener.Addr().String()})
}

func TestEnvoyAppliesRequestHeaders(t *testing.T) {
	t.Parallel()
	type options = []*corev3.HeaderValueOption
	cases := []struct {
		name   string
		set    options
		remove []string
		// What the app sees when the client sent the header no times, once ("evil") and twice ("evil", "evil2").
		none, once, twice string
	}{
		{"unset", options{option("srv", unset)}, nil, "srv", "srv", "srv"},
		{"append-false", options{option("srv", noAppend)}, nil, "srv", "srv", "srv"},
		{"overwrite", options{option("srv", overwrite)}, nil, "srv", "srv", "srv"},
		{"append-true", options{option("srv", doAppend)}, nil, "", "evil,srv", "evil,srv,evil2"},
		{"two-unset", options{option("srv", unset), option("srv2", unset)}, nil, "srv2", "srv2", "srv2"},
		{"set-then-append", options{option("srv", noAppend), option("srv2", doAppend)}, nil, "srv,srv2", "srv,srv2", "srv,srv2"},
		{"removed-after-set", options{option("srv", noAppend)}, []string{"x-auth-subject"}, "", "", ""},
		{"removed", nil, []string{"x-auth-subject"}, "", "", ""},
	}
	byPath := map[string]*authv3.CheckResponse{}
	for _, c := range cases {
		byPath["/"+c.name] = allow(&authv3.OkHttpResponse{Headers: c.set, HeadersToRemove: c.remove})
	}
	s := startAnswers(t, byPath)
	for _, c := range cases {
		for sent, want := range map[int]string{0: c.none, 1: c.once, 2: c.twice} {
			client := http.Header{"X-Auth-Subject": []string{"evil", "evil2"}[:sent]}
			if got := seen(t, s, sandbox.Call{Path: "/" + c.name, Header: client})["X-Auth-Subject"]; got != want {
				t.Errorf("%s, client sent %d: app sees %q, want %q", c.name, sent, got, want)
			}
		}
	}
}

func TestEnvoyAppliesResponseHeaders(t *testing.T) {
	t.Parallel()
	byPath := map[string]*authv3.CheckResponse{
		"/denied":             deny(codes.PermissionDenied, option("a", unset), option("b", unset)),
		"/denied-append":      deny(codes.PermissionDenied, option("a", doAppend)),
		"/denied-but-code-ok": deny(codes.OK),
	}
	for name, how := range map[string]*corev3.HeaderValueOption{"unset": unset, "overwrite": overwrite} {
		ok := &authv3.OkHttpResponse{ResponseHeadersToAdd: []*corev3.HeaderValueOption{option("a", how), option("b", how)}}
		byPath["/with-response-header?"+name] = allow(ok)
	}
	s := startAnswers(t, byPath)
	for _, c := range []struct {
		path   string
		status int
		want   []string
	}{
		{"/with-response-header?unset", 200, []string{"app", "a", "b"}},
		{"/with-response-header?overwrite", 200, []string{"b"}},
		{"/denied", 403, []string{"a", "b"}},
		{"/denied-append", 403, nil},
		// A denied_response under a status of OK is an allow: the reason why a denial always has a code.
		{"/denied-but-code-ok", 200, nil},
	} {
		answer := ask(t, s, sandbox.Call{Path: c.path})
		if got := answer.Header["X-Auth-Subject"]; answer.Status != c.status || !slices.Equal(got, c.want) {
			t.Errorf("%s: %d %q, want %d %q", c.path, answer.Status, got, c.status, c.want)
		}
	}
}
