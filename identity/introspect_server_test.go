package identity_test

import (
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/identity"

	"github.com/golang-jwt/jwt/v5"
)

const (
	clientName   = "gate:house"      // a colon, which form encoding must hide
	clientSecret = "s3cr&t%+ =/ü"    // must never show
	opaque       = "opaque-7Hq2.x~1" // must never show
)

// introspectionServer is a strict RFC 7662 server: it answers only a well-formed question of a client that proves who it is.
type introspectionServer struct {
	*httptest.Server
	public    crypto.PublicKey // of private_key_jwt; nil = client_secret_basic
	audience  string           // that the assertion must have
	kid       any              // that it must have; nil = none
	questions atomic.Int64

	mu      sync.Mutex // what follows
	answers map[string]string
	used    map[string]bool                       // jti
	before  func(http.ResponseWriter) (done bool) // may answer instead
	refused []string
	change  func(http.ConnState) // told of connections
}

func newIntrospectionServer(t testing.TB) *introspectionServer {
	s := &introspectionServer{answers: map[string]string{}, used: map[string]bool{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.change != nil {
			s.change(state)
		}
	}
	s.Start()
	t.Cleanup(func() {
		s.Close()
		for _, why := range s.refused {
			t.Errorf("the server refused a question: %s", why)
		}
	})
	return s
}

func (s *introspectionServer) says(tok string, answer any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[tok] = toJSON(answer)
}

func (s *introspectionServer) first(do func(http.ResponseWriter) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = do
}

func (s *introspectionServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.questions.Add(1)
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil && before(w) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(r); err != nil {
		s.refused = append(s.refused, err.Error())
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	answer, known := s.answers[r.PostForm.Get("token")]
	if !known {
		answer = `{"active":false}`
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	fmt.Fprint(w, answer)
}

func (s *introspectionServer) check(r *http.Request) error {
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || r.URL.RawQuery != "" {
		return errors.New("not a form")
	}
	if err := r.ParseForm(); err != nil {
		return err
	}
	for name, values := range r.PostForm {
		if len(values) != 1 {
			return fmt.Errorf("parameter %s repeats", name)
		}
	}
	if r.PostForm.Get("token_type_hint") != "access_token" || r.Header.Get("Accept") != "application/json" {
		return errors.New("no hint, or another type is accepted")
	}
	if s.public == nil {
		return s.checkBasic(r)
	}
	if r.Header.Get("Authorization") != "" {
		return errors.New("two ways of authentication")
	}
	return s.checkAssertion(r.PostForm)
}

func (s *introspectionServer) checkBasic(r *http.Request) error {
	encoded, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Basic ")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	id, secret, colon := strings.Cut(string(raw), ":")
	if !ok || err != nil || !colon || strings.Contains(secret, ":") {
		return errors.New("no basic authentication")
	}
	id, err1 := url.QueryUnescape(id)
	secret, err2 := url.QueryUnescape(secret)
	if err1 != nil || err2 != nil || id != clientName || secret != clientSecret || r.PostForm.Has("client_assertion") {
		return errors.New("another client")
	}
	return nil
}

func (s *introspectionServer) checkAssertion(form url.Values) error {
	if form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || form.Get("client_id") != clientName {
		return errors.New("no assertion")
	}
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(jwt.WithAudience(s.audience), jwt.WithIssuer(clientName), jwt.WithSubject(clientName), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithTimeFunc(func() time.Time { return noon }))
	tok, err := parser.ParseWithClaims(form.Get("client_assertion"), claims, func(*jwt.Token) (any, error) { return s.public, nil })
	if err != nil {
		return err
	}
	id, _ := claims["jti"].(string)
	if id == "" || s.used[id] || tok.Header["kid"] != s.kid || claims["exp"].(float64)-claims["iat"].(float64) > 60 {
		return errors.New("jti, kid or lifetime is wrong")
	}
	s.used[id] = true
	return nil
}

// asking is the configuration that asks the server about what comes as Authorization: Bearer.
func (s *introspectionServer) asking(t testing.TB) identity.Config {
	secret := filepath.Join(t.TempDir(), "client.secret")
	writeFile(t, secret, clientSecret+"\n")
	return identity.Config{
		Clock: func() time.Time { return noon },
		Introspection: []identity.Introspection{{URL: s.URL, ClientID: clientName, SecretFile: secret, Audiences: []string{"orders", "stock"},
			Claims: identity.ClaimPaths{Roles: "realm_access.roles"}}},
	}
}

// active is the answer about a good token; changes replace, and nil removes.
func active(changes object) object {
	a := object{"active": true, "sub": subject, "client_id": "shop", "aud": "orders", "exp": at(time.Hour), "iat": at(-time.Minute)}
	for name, value := range changes {
		if a[name] = value; value == nil {
			delete(a, name)
		}
	}
	return a
}

func (r *running) ask(keys *identity.Keys, h headers) string {
	r.t.Helper()
	got := outcome(r.t, r.v, keys, h)
	for _, secret := range []string{opaque, clientSecret, "s3cr"} {
		if strings.Contains(got, secret) || strings.Contains(r.log.String(), secret) {
			r.t.Errorf("a secret shows in %q or the log", got)
		}
	}
	return got
}
