package follow

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"gatehouse/control/api"
	"gatehouse/control/trust"
	"gatehouse/control/wire"
	"gatehouse/durable"
	"gatehouse/watch"
)

// identity is what this edge is at control. The key never leaves the edge.
type identity struct {
	Edge        string `json:"edge"`
	Environment string `json:"environment"`
	Token       string `json:"token"` // hash of the enrolment token that it came of
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"` // PKCS 8

	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

const (
	identityFile = "edge.json"
	keyFile      = "enroll.key" // the key of an enrolment that is under way
	maxIdentity  = 64 << 10
	maxToken     = 4 << 10
)

func readIdentity(dir string) (*identity, error) {
	text, err := watch.ReadFile(filepath.Join(dir, identityFile), maxIdentity)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var id identity
	err = json.Unmarshal(text, &id)
	if err == nil {
		err = id.parse()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it, and enroll this edge anew", filepath.Join(dir, identityFile), err)
	}
	return &id, nil
}

func (id *identity) parse() (err error) {
	if id.leaf, err = x509.ParseCertificate(id.Certificate); err != nil {
		return err
	}
	id.key, err = parseKey(id.Key)
	return err
}

func parseKey(der []byte) (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		return k, nil
	}
	return nil, fmt.Errorf("a %T, and an ECDSA key is wanted", key)
}

func (id *identity) save(dir string) error {
	text, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, identityFile), text, 0o600)
}

func (id *identity) expires() time.Time { return id.leaf.NotAfter.UTC() }

// due reports whether the certificate is to be renewed: a third of its time is over.
func (id *identity) due(now time.Time) bool {
	return now.After(id.leaf.NotBefore.Add(id.leaf.NotAfter.Sub(id.leaf.NotBefore) / 3))
}

// newKey makes a key and the request for its certificate.
func newKey() (key *ecdsa.PrivateKey, der []byte, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	return key, der, err
}

func request(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// enrollmentKey is the key of an enrolment, kept until it is done: with the same key a token that was used can be used
// again, where its answer was lost.
func (f *Follower) enrollmentKey() (*ecdsa.PrivateKey, []byte, error) {
	path := filepath.Join(f.with.Dir, keyFile)
	if der, err := watch.ReadFile(path, maxIdentity); err == nil {
		if key, err := parseKey(der); err == nil {
			return key, der, nil
		}
	}
	key, der, err := newKey()
	if err == nil {
		err = durable.WriteFile(path, der, 0o600)
	}
	return key, der, err
}

// token is the enrolment token in the file, with its hash.
func (f *Follower) token() (text, hash string, err error) {
	if f.with.TokenFile == "" {
		return "", "", errors.New("this edge is not enrolled: set control.enroll_token_file to a file with a token of gatehouse control enroll")
	}
	raw, err := watch.ReadFile(f.with.TokenFile, maxToken)
	if err != nil {
		return "", "", fmt.Errorf("reading control.enroll_token_file: %w", err)
	}
	text = strings.TrimSpace(string(raw))
	sum := sha256.Sum256([]byte(text))
	return text, hex.EncodeToString(sum[:]), nil
}

// enroll gets this edge's certificate for a token.
func (f *Follower) enroll(ctx context.Context) error {
	token, hash, err := f.token()
	if err != nil {
		return err
	}
	key, der, err := f.enrollmentKey()
	if err != nil {
		return err
	}
	csr, err := request(key)
	if err != nil {
		return err
	}
	transport, err := f.transport(nil)
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	out, err := client(transport, f.with.URL).Enroll(ctx, connect.NewRequest(&api.EnrollRequest{Token: token, Request: csr, Name: f.with.Name, Version: f.with.Version}))
	if err != nil {
		return fmt.Errorf("enrolling: %w", err)
	}
	id := &identity{Edge: out.Msg.GetEdge(), Environment: out.Msg.GetEnvironment(), Token: hash, Certificate: out.Msg.GetCertificate(), Key: der}
	if err := f.take(id); err != nil {
		return fmt.Errorf("enrolling: %w", err)
	}
	os.Remove(filepath.Join(f.with.Dir, keyFile))
	f.logger.Info("this edge is enrolled", zap.String("edge", id.Edge), zap.String("environment", id.Environment))
	return nil
}

// take makes id this edge's identity.
func (f *Follower) take(id *identity) error {
	if err := id.parse(); err != nil {
		return err
	}
	public, ok := id.leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !public.Equal(&id.key.PublicKey) {
		return errors.New("control sent a certificate of another key")
	}
	if err := id.save(f.with.Dir); err != nil {
		return err
	}
	f.identity = id
	f.set(func(*Status) {})
	return nil
}

// renew gets a new certificate, for a new key.
func (f *Follower) renew(ctx context.Context, c api.EdgeServiceClient) error {
	key, der, err := newKey()
	if err != nil {
		return err
	}
	csr, err := request(key)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	out, err := c.Renew(ctx, connect.NewRequest(&api.RenewRequest{Request: csr}))
	if err != nil {
		return fmt.Errorf("renewing the certificate: %w", err)
	}
	id := *f.identity
	id.Certificate, id.Key = out.Msg.GetCertificate(), der
	if err := f.take(&id); err != nil {
		return fmt.Errorf("renewing the certificate: %w", err)
	}
	f.logger.Info("the edge's certificate is renewed", zap.Time("expires", id.expires()))
	return nil
}

// again reports whether there is another enrolment token than the one that the identity came of: with it an edge that is
// refused can come back.
func (f *Follower) again() bool {
	_, hash, err := f.token()
	return err == nil && f.identity != nil && hash != f.identity.Token
}

func client(t *http.Transport, url string) api.EdgeServiceClient {
	return api.NewEdgeServiceClient(&http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		strings.TrimSuffix(url, "/"), connect.WithReadMaxBytes(wire.MaxMessage), connect.WithAcceptCompression("gzip", nil, nil))
}

// transport speaks to control. id nil: without a certificate.
func (f *Follower) transport(id *identity) (*http.Transport, error) {
	u, err := url.Parse(f.with.URL)
	if err != nil {
		return nil, err
	}
	secure, err := trust.Control(f.with.CA, f.with.Pin, u.Hostname(), f.with.Clock)
	if err != nil {
		return nil, err
	}
	secure.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	if id != nil {
		secure.Certificates = []tls.Certificate{{Certificate: [][]byte{id.Certificate}, PrivateKey: id.key, Leaf: id.leaf}}
	}
	return &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, ForceAttemptHTTP2: true,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 2 * time.Minute, // thousands may want one at the same time
		MaxIdleConns:        2, ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 20 * time.Second, WriteByteTimeout: 30 * time.Second}}, nil
}
