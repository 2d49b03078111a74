package main

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
)

// What is measured: callers with RS256 tokens, a route table, a policy that maps roles to what they may do on a route and lets
// people read what is their own; the decision log to a file, through a spool; metrics on.
const (
	logLine = "decision_log: {file: log/decisions.log, dir: spool}"
	config  = `listen:
  grpc: ["GRPC", "unix:gatehouse.sock"]
  admin: "ADMIN"
identity:
  jwt:
    - {issuer: https://login.example.com, audiences: [orders], keys: {file: jwks.json}}
headers: {subject: x-auth-subject, roles: x-auth-roles}
policy:
  timeout: 10s # of a machine that others use too nobody is denied
  bundles: [{name: bench, path: policy}]
routes: {file: routes.yaml}
` + logLine + `
log: {level: warn}
`
	routeTable = `framework: flask
routes:
  - {route: "GET, POST /orders", name: orders}
  - {route: "GET, PUT /orders/<id>", name: order}
  - {route: "GET /users/<user>/orders", name: own_orders}
  - {route: "GET /users/<user>/orders/<id>", name: own_order}
`
	rego = `package envoy.authz

default allow := {"allowed": false}

# By role: data.roles says what a role may do.
allow := {"allowed": true, "headers": {"x-tenant": "t1"}} if {
	some role in input.identity.roles
	some grant in data.roles[role]
	grant.method == input.attributes.request.http.method
	grant.route == input.route.name
	not input.resource.id in data.blocked
}

# By attribute: what is one's own, unless it is locked.
allow := {"allowed": true, "headers": {"x-tenant": "t1"}} if {
	input.route.name == "own_order"
	input.attributes.request.http.method == "GET"
	input.resource.user == input.identity.subject
	not data.locked[input.resource.id]
}
`
	users, paths = 20, 50
)

// shape is how large everything is. The zero value is the usual.
type shape struct {
	rules   int // further rules of the policy, each for a route of its own
	roles   int // that there are, and that each caller has
	data    int // bytes of data that the policy looks one entry up in
	token   int // bytes of a token, at least
	headers int // of a request
}

func (s shape) withDefaults() shape {
	s.roles, s.headers = cmp.Or(s.roles, 2), cmp.Or(s.headers, 20)
	return s
}

// fixture is a folder that a Gatehouse can be started in, and what its callers send.
type fixture struct {
	dir   string
	shape shape
	key   *rsa.PrivateKey
	last  atomic.Int64 // number that was given last to what must not repeat
}

func newFixture(dir string, s shape) (*fixture, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	f := &fixture{dir: dir, shape: s.withDefaults(), key: key}
	return f, f.write()
}

// copyTo makes a second folder with the same keys, for a second process.
func (f *fixture) copyTo(dir string) (*fixture, error) {
	out := &fixture{dir: dir, shape: f.shape, key: f.key}
	return out, out.write()
}

func (f *fixture) write() error {
	// The log is in a folder of its own: what is written beside files that are watched is told to the watcher, each time.
	errs := []error{os.MkdirAll(filepath.Join(f.dir, "policy"), 0o755), os.MkdirAll(filepath.Join(f.dir, "log"), 0o755)}
	for name, text := range map[string]string{"gatehouse.yaml": config, "routes.yaml": routeTable, "jwks.json": jwks(f.key),
		"policy/policy.rego": rego + f.shape.moreRules(), "policy/data.json": f.shape.document()} {
		errs = append(errs, os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o644))
	}
	return errors.Join(errs...)
}

// moreRules are rules as an application has them for its other routes.
func (s shape) moreRules() string {
	var b strings.Builder
	for i := range s.rules {
		fmt.Fprintf(&b, "\nallow := {\"allowed\": true} if {\n\tinput.route.name == \"route-%d\"\n\t\"role-%d\" in input.identity.roles\n}\n", i, i%100)
	}
	return b.String()
}

// document is data.json. The last role of a caller is the one that helps.
func (s shape) document() string {
	roles := map[string]any{}
	for i := range s.roles - 1 {
		roles[roleName(i)] = []any{map[string]string{"method": "PUT", "route": "order"}}
	}
	roles[roleName(s.roles-1)] = []any{map[string]string{"method": "GET", "route": "orders"}, map[string]string{"method": "GET", "route": "order"}}
	text, _ := json.Marshal(map[string]any{"roles": roles, "blocked": []string{"13000", "17000"}})
	var b strings.Builder
	b.Write(text[:len(text)-1])
	b.WriteString(`,"locked":{"0":{}`)
	for i := 0; b.Len() < s.data; i++ {
		fmt.Fprintf(&b, `,"order-%07d":{"by":"user-%03d","since":"2026-01-01","why":"under review"}`, i, i%500)
	}
	b.WriteString("}}")
	return b.String()
}

func roleName(i int) string { return fmt.Sprintf("role-%03d", i) }

func jwks(keys ...*rsa.PrivateKey) string {
	set := []any{}
	for _, key := range keys {
		set = append(set, map[string]string{"kty": "RSA", "kid": keyID(key), "alg": "RS256", "use": "sig",
			"n": encode(key.N.Bytes()), "e": encode(big.NewInt(int64(key.E)).Bytes())})
	}
	text, _ := json.Marshal(map[string]any{"keys": set})
	return string(text)
}

// keyID is a short name that no two keys have.
func keyID(key *rsa.PrivateKey) string {
	digest := sha256.Sum256(key.N.Bytes())
	return encode(digest[:6])
}

// token signs a token. All of one shape are of the same length: the subject is a number of fixed width.
func (f *fixture) token(user int) (string, error) {
	roles := make([]string, f.shape.roles)
	for i := range roles {
		roles[i] = roleName(i)
	}
	claims := map[string]any{"iss": "https://login.example.com", "aud": "orders", "sub": userName(user), "roles": roles,
		"exp": time.Now().Add(12 * time.Hour).Unix(), "email": userName(user) + "@example.com"}
	signed, signature, err := f.sign(claims)
	if missing := f.shape.token - len(signed) - len(signature); err == nil && missing > 0 {
		claims["padding"] = strings.Repeat("x", missing*3/4)
		signed, signature, err = f.sign(claims)
	}
	return signed + "." + signature, err
}

func (f *fixture) sign(claims map[string]any) (signed, signature string, err error) {
	header, _ := json.Marshal(map[string]string{"alg": "RS256", "kid": keyID(f.key), "typ": "JWT"})
	payload, _ := json.Marshal(claims)
	signed = encode(header) + "." + encode(payload)
	digest := sha256.Sum256([]byte(signed))
	raw, err := rsa.SignPKCS1v15(rand.Reader, f.key, crypto.SHA256, digest[:])
	return signed, encode(raw), err
}

func userName(n int) string { return fmt.Sprintf("user-%08d", n) }

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// mint makes the tokens of callers first to first+count-1, on all cores: one takes about a millisecond.
func (f *fixture) mint(first, count int) ([]string, error) {
	tokens, errs := make([]string, count), make([]error, count)
	var wait sync.WaitGroup
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				tokens[i], errs[i] = f.token(first + i)
			}
		})
	}
	wait.Wait()
	return tokens, errors.Join(errs...)
}

// workload gives the messages of a run. next may be called by all callers at once; nil: there are no more.
type workload func() []byte

// repeated is the same 1000 decisions over and over: 20 users, 50 paths.
func (f *fixture) repeated() (workload, error) {
	tokens, err := f.mint(0, users)
	if err != nil {
		return nil, err
	}
	var messages [][]byte
	for _, token := range tokens {
		for path := range paths {
			wire, err := f.message(token, fmt.Sprintf("/orders/%d", path))
			if err != nil {
				return nil, err
			}
			messages = append(messages, wire)
		}
	}
	return func() []byte { return messages[f.last.Add(7)%int64(len(messages))] }, nil // 7: neighbours are of different paths
}

// fresh is a decision that was never made before: people read orders of their own, and no order twice.
func (f *fixture) fresh() (workload, error) {
	const hole = "########"
	tokens, err := f.mint(0, users)
	if err != nil {
		return nil, err
	}
	templates := make([][]byte, len(tokens))
	for user, token := range tokens {
		if templates[user], err = f.message(token, "/users/"+userName(user)+"/orders/"+hole); err != nil {
			return nil, err
		}
	}
	return func() []byte {
		n := f.last.Add(1)
		return bytes.ReplaceAll(templates[n%users], []byte(hole), fmt.Appendf(nil, "%08d", n))
	}, nil
}

// firstSights is one message for each of the tokens, and then no more.
func (f *fixture) firstSights(tokens []string) (workload, error) {
	template, err := f.message(strings.Repeat("#", len(tokens[0])), "/orders/17")
	if err != nil {
		return nil, err
	}
	at := bytes.IndexByte(template, '#')
	var last atomic.Int64
	return func() []byte {
		n := int(last.Add(1)) - 1
		if n >= len(tokens) {
			return nil
		}
		wire := bytes.Clone(template)
		copy(wire[at:], tokens[n])
		return wire
	}, nil
}

func (f *fixture) message(token, path string) ([]byte, error) {
	return proto.Marshal(request(token, path, f.shape.headers))
}

// browserHeaders are those of a browser's request; :path and authorization come in addition.
func browserHeaders() map[string]string {
	return map[string]string{":method": "GET", ":authority": "orders.example.com", ":scheme": "https",
		"x-request-id": "c4a1c5b0-9a52-4f3e-8a8f-0f6f6d0f7c11", "x-forwarded-proto": "https",
		"user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "accept": "application/json", "accept-language": "en-GB,en;q=0.9",
		"accept-encoding": "gzip, deflate, br", "x-forwarded-for": "203.0.113.7", "referer": "https://orders.example.com/", "cookie": "theme=dark; lang=en"}
}

// request is what Envoy sends for a request of a browser with so many headers.
func request(token, path string, count int) *authv3.CheckRequest {
	headers := map[string]string{":path": path, "authorization": "Bearer " + token}
	for name, value := range browserHeaders() {
		if len(headers) < count {
			headers[name] = value
		}
	}
	for i := len(headers); i < count; i++ {
		headers[fmt.Sprintf("x-custom-%d", i)] = "some value"
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Id: "1", Method: "GET", Path: path, Host: "orders.example.com", Scheme: "https", Protocol: "HTTP/1.1", Headers: headers}}}}
}
