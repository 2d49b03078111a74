package bundles_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/upstream"
)

// authority is a CA for 127.0.0.1 and for clients.
type authority struct {
	t    testing.TB
	dir  string
	file string // its certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.file, _ = a.issue("ca")
	return a
}

// issue makes a certificate for this name and returns its files. The first one is the CA's own.
func (a *authority) issue(name string) (cert, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage, template.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		parent, signer = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, signer)
	must(a.t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	must(a.t, err)
	if a.cert == nil {
		a.key = private
		a.cert, err = x509.ParseCertificate(der)
		must(a.t, err)
	}
	cert, key = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	must(a.t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(a.t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	return cert, key
}

// serve starts a TLS server; with mutual it requires a client certificate of this CA.
func (a *authority) serve(h http.Handler, mutual bool) *httptest.Server {
	a.t.Helper()
	pair, err := tls.LoadX509KeyPair(a.issue("server"))
	must(a.t, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	if mutual {
		s.TLS.ClientAuth = tls.RequireAndVerifyClientCert
	}
	s.Config.ErrorLog = nil
	s.StartTLS()
	a.t.Cleanup(s.Close)
	return s
}

// behind passes a request to a bundle server if check accepts it.
func behind(check func(r *http.Request) bool, next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !check(r) {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}
}

func bearer(token string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+token }
}

func with(s upstream.Service) func(*bundles.Remote) {
	return func(c *bundles.Remote) { c.Service = s }
}

func TestBearerToken(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte("old\n"), 0o600))
	origin := newBundleServer(t, answers(1))
	server := httptest.NewServer(behind(bearer("new"), origin))
	t.Cleanup(server.Close)
	r := run(t, from(server.URL, with(upstream.Service{BearerFile: file, Headers: map[string]string{"X-Tenant": "blue"}})))
	r.remote("the refusal", func(s bundles.Status) bool { return strings.Contains(s.Remote.Unreachable, "401") })
	must(t, os.WriteFile(file, []byte("new\n"), 0o600))
	if got := response(t, r.next()); got != "1" {
		t.Errorf("answer %s", got)
	}
	if _, last := origin.seen(); last.Header.Get("X-Tenant") != "blue" {
		t.Errorf("headers %v", last.Header)
	}
}

// A credential is sent only to the host that it is for, whatever the redirects.
func TestRedirects(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte("t"), 0o600))
	storage := newBundleServer(t, answers(1))
	mux := http.NewServeMux()
	mux.Handle("/moved", behind(bearer("t"), newBundleServer(t, answers(2))))
	mux.Handle("/here", http.RedirectHandler("/moved", http.StatusFound))
	mux.Handle("/away", http.RedirectHandler(strings.Replace(storage.URL, "127.0.0.1", "localhost", 1)+"/x?signature=s", http.StatusTemporaryRedirect))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	service := upstream.Service{BearerFile: file, Headers: map[string]string{"X-Api-Key": "k"}}
	if got := response(t, run(t, from(server.URL+"/here", with(service))).next()); got != "2" {
		t.Errorf("answer %s of the same host", got)
	}
	if got := response(t, run(t, from(server.URL+"/away", with(service))).next()); got != "1" {
		t.Errorf("answer %s of the other host", got)
	}
	if _, last := storage.seen(); last.Header.Get("Authorization") != "" || last.Header.Get("X-Api-Key") != "" {
		t.Errorf("the other host got %v", last.Header)
	}
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	elsewhere := newBundleServer(t, answers(9))
	mux := http.NewServeMux()
	mux.Handle("/", newBundleServer(t, answers(1)))
	mux.Handle("/away", http.RedirectHandler(strings.Replace(elsewhere.URL, "http:", "https:", 1), http.StatusFound))
	server := ca.serve(mux, true)
	cert, key := ca.issue("gatehouse")
	wrong, wrongKey := other.issue("gatehouse")
	if got := response(t, run(t, from(server.URL, with(upstream.Service{CA: ca.file, Cert: cert, Key: key}))).next()); got != "1" {
		t.Errorf("answer %s", got)
	}
	for want, r := range map[string]*running{
		"certificate":      run(t, from(server.URL, with(upstream.Service{CA: ca.file}))),
		"unknown":          run(t, from(server.URL, with(upstream.Service{CA: ca.file, Cert: wrong, Key: wrongKey}))),
		"verify":           run(t, from(server.URL, with(upstream.Service{CA: other.file, Cert: cert, Key: key}))),
		"must not see":     run(t, from(server.URL+"/away", with(upstream.Service{CA: ca.file, Cert: cert, Key: key}))),
		"unknown authorit": run(t, from(server.URL, with(upstream.Service{Cert: cert, Key: key}))),
	} {
		r.remote(want, func(s bundles.Status) bool { return strings.Contains(s.Remote.Unreachable, want) })
		r.none()
	}
}

func TestOAuth2(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("wrong"), 0o600))
	tokens := ca.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, password, _ := r.BasicAuth()
		if r.Method != http.MethodPost || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "bundles" || id != "gatehouse" || password != "right" {
			http.Error(w, strings.Repeat("no ", 5000), http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600})
	}), false)
	server := ca.serve(behind(bearer("t0ken"), newBundleServer(t, answers(1))), false)
	r := run(t, from(server.URL, with(upstream.Service{CA: ca.file,
		OAuth2: &upstream.OAuth2{TokenURL: tokens.URL, ClientID: "gatehouse", SecretFile: secret, Scopes: []string{"bundles"}}})))
	s := r.remote("the refusal", func(s bundles.Status) bool { return strings.Contains(s.Remote.Unreachable, "getting a credential") })
	if len(s.Remote.Unreachable) > 600 {
		t.Errorf("the token endpoint's answer is quoted in full: %d bytes", len(s.Remote.Unreachable))
	}
	must(t, os.WriteFile(secret, []byte("right"), 0o600))
	if got := response(t, r.next()); got != "1" {
		t.Errorf("answer %s", got)
	}
}

// TestCloudCredentials checks the credentials of three clouds on real requests, with the metadata services on loopback.
func TestCloudCredentials(t *testing.T) {
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections) // OPA uses it for the metadata services
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "example")
	t.Setenv("AWS_REGION", "eu-central-1")
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Metadata-Flavor") == "Google" && r.URL.Query().Get("audience") == "https://control.example.com":
			fmt.Fprint(w, "google")
		case r.Header.Get("Metadata") == "true" && r.URL.Query().Get("resource") == "https://storage.azure.com/":
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "azure", "expires_in": "3600", "token_type": "Bearer"})
		default:
			http.Error(w, "", http.StatusBadRequest)
		}
	}))
	t.Cleanup(metadata.Close)
	for name, c := range map[string]struct {
		service upstream.Service
		want    string
	}{
		"aws":   {upstream.Service{AWS: &upstream.AWS{From: "environment"}}, "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/"},
		"gcp":   {upstream.Service{GCP: &upstream.GCP{Audience: "https://control.example.com", Endpoint: metadata.URL}}, "Bearer google"},
		"azure": {upstream.Service{Azure: &upstream.Azure{Resource: "https://storage.azure.com/", Endpoint: metadata.URL}}, "Bearer azure"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(behind(func(r *http.Request) bool { return strings.HasPrefix(r.Header.Get("Authorization"), c.want) }, newBundleServer(t, answers(1))))
			t.Cleanup(server.Close)
			if got := response(t, run(t, from(server.URL, with(c.service))).next()); got != "1" {
				t.Errorf("answer %s", got)
			}
		})
	}
}
