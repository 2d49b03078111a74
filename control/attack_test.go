package control_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"gatehouse/control/api"
)

// transport trusts a control, and shows a certificate where there is one.
func transport(t testing.TB, authority string, own *tls.Certificate, clock func() time.Time) *http.Transport {
	t.Helper()
	text, err := os.ReadFile(authority)
	if err != nil {
		t.Fatal(err)
	}
	with := &tls.Config{RootCAs: x509.NewCertPool(), Time: clock}
	with.RootCAs.AppendCertsFromPEM(text)
	if own != nil {
		with.Certificates = []tls.Certificate{*own}
	}
	out := &http.Transport{TLSClientConfig: with, ForceAttemptHTTP2: true}
	t.Cleanup(out.CloseIdleConnections)
	return out
}

func signingRequest(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// malicious is an enrolled edge that says what the test wants.
func malicious(t *testing.T, s *served, clock func() time.Time) api.EdgeServiceClient {
	t.Helper()
	key, der := signingRequest(t)
	stranger := api.NewEdgeServiceClient(&http.Client{Transport: transport(t, s.AuthorityFile(), nil, clock)}, s.url())
	got, err := stranger.Enroll(t.Context(), connect.NewRequest(&api.EnrollRequest{Token: s.enrollment(prod, "evil"), Request: der, Name: "evil", Version: "v"}))
	if err != nil {
		t.Fatal(err)
	}
	own := &tls.Certificate{Certificate: [][]byte{got.Msg.GetCertificate()}, PrivateKey: key}
	return api.NewEdgeServiceClient(&http.Client{Transport: transport(t, s.AuthorityFile(), own, clock)}, s.url())
}

// TestTokenBeforeBody: who has no token is refused before the body has come.
func TestTokenBeforeBody(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	body, never := io.Pipe()
	defer never.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url()+api.DirectoryServiceSetObjectsProcedure, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := (&http.Client{Transport: transport(t, s.AuthorityFile(), nil, nil)}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d", answer.StatusCode)
	}
}

// TestStalledHandshakes: connections whose handshake does not go on keep nobody out.
func TestStalledHandshakes(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	for range 200 {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte{0x16}); err != nil {
			t.Fatal(err)
		}
	}
	ask(t, s.with(s.admin).ListEdges, &api.ListEdgesRequest{})
}

// TestWordsOfAnEdge: no text and no revision that an edge says ends what others ask and write, also after a restart.
func TestWordsOfAnEdge(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	stream := malicious(t, s, nil).Sync(t.Context())
	if err := stream.Send(&api.SyncRequest{Message: &api.SyncRequest_Hello{Hello: &api.Hello{Version: "v"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Receive(); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*api.SyncRequest{
		{Message: &api.SyncRequest_Applied{Applied: &api.Applied{Revision: 1, Error: "x" + strings.Repeat("é", 400)}}},
		{Message: &api.SyncRequest_Applied{Applied: &api.Applied{Revision: 1 << 63}}},
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the edge's last word", func() bool {
		list := ask(t, c.ListEdges, &api.ListEdgesRequest{}).GetEdges()
		return len(list) == 1 && list[0].GetRevision() <= 1 && strings.Contains(list[0].GetError(), "does not exist")
	})
	ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{user("u")}})
	s.stop()
	again := serve(t, s.dir, "")
	ask(t, again.with(s.admin).ListEdges, &api.ListEdgesRequest{})
}

// TestImportOfARevokedToken: each batch needs a token that counts, and is for one environment.
func TestImportOfARevokedToken(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	token := ask(t, c.CreateToken, &api.CreateTokenRequest{Name: "t", Scopes: []string{"write:" + prod}})
	ask(t, c.CreateEnvironment, &api.CreateEnvironmentRequest{Name: "shop/dev"})
	listed := func(id string) bool {
		return len(ask(t, c.ListObjects, &api.ListObjectsRequest{Environment: prod, Type: "user", Id: id}).GetObjects()) > 0
	}
	begin := func() *connect.ClientStreamForClient[api.ImportRequest, api.ImportResponse] {
		t.Helper()
		stream := s.with(token.GetText()).Import(t.Context())
		if err := stream.Send(&api.ImportRequest{Environment: prod, Objects: []*api.Object{user("one")}}); err != nil {
			t.Fatal(err)
		}
		await(t, "the first batch", func() bool { return listed("one") })
		return stream
	}
	end := func(stream *connect.ClientStreamForClient[api.ImportRequest, api.ImportResponse], environment string, code connect.Code) {
		t.Helper()
		if err := stream.Send(&api.ImportRequest{Environment: environment, Objects: []*api.Object{user("two")}}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, err := stream.CloseAndReceive(); connect.CodeOf(err) != code {
			t.Errorf("error %v, want %v", err, code)
		}
		if listed("two") {
			t.Error("it was written")
		}
	}
	end(begin(), "shop/dev", connect.CodeInvalidArgument)
	stream := begin()
	ask(t, c.RevokeToken, &api.RevokeTokenRequest{Id: token.GetToken().GetId()})
	end(stream, prod, connect.CodeUnauthenticated)
}

// TestOldConnection: a certificate that has expired is not renewed over a connection that is older, and an idempotency key counts for a day.
func TestOldConnection(t *testing.T) {
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s := serveAt(t, t.TempDir(), "", clock)
	c := s.with(s.admin)
	set := func() {
		t.Helper()
		ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{user("carol")}, Options: &api.WriteOptions{IdempotencyKey: "k"}})
	}
	set()
	ask(t, c.DeleteObjects, &api.DeleteObjectsRequest{Environment: prod, Objects: []*api.Ref{{Type: "user", Id: "carol"}}})
	e := malicious(t, s, clock)
	_, der := signingRequest(t)
	ask(t, e.Renew, &api.RenewRequest{Request: der})
	ahead.Store(int64(31 * 24 * time.Hour))
	set()
	if len(ask(t, c.ListObjects, &api.ListObjectsRequest{Environment: prod, Type: "user", Id: "carol"}).GetObjects()) == 0 {
		t.Error("a month later the key still counts")
	}
	if _, err := e.Renew(t.Context(), connect.NewRequest(&api.RenewRequest{Request: der})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("error %v", err)
	}
}
