package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// What is measured: 20 callers with RS256 tokens and 50 paths, a policy that maps roles to permissions.
const (
	config = `listen:
  grpc: ["127.0.0.1:19491", "unix:gatehouse.sock"]
  admin: "127.0.0.1:19492"
identity:
  jwt:
    - {issuer: https://login.example.com, audiences: [orders], keys: {file: jwks.json}}
policy:
  bundles: [{name: bench, path: policy}]
decision_log: {file: decisions.log}
log: {level: warn}
`
	rego = `package envoy.authz

default allow := {"allowed": false}

allow := {"allowed": true, "headers": {"x-tenant": "t1"}} if {
	some role in input.identity.roles
	some grant in data.roles[role]
	grant.method == input.attributes.request.http.method
	glob.match(grant.path, ["/"], input.attributes.request.http.path)
}
`
	data = `{"roles": {
  "viewer": [{"method": "GET", "path": "/orders"}, {"method": "GET", "path": "/orders/*"}],
  "editor": [{"method": "PUT", "path": "/orders/*"}, {"method": "POST", "path": "/orders"}]}}
`
)

// writeCase writes configuration, policy and keys, and returns the requests, marshalled.
func writeCase(dir string) ([][]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	jwks := map[string]any{"keys": []any{map[string]string{"kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig",
		"n": encode(key.N.Bytes()), "e": encode(big.NewInt(int64(key.E)).Bytes())}}}
	keys, err := json.Marshal(jwks)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "policy"), 0o755); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{"gatehouse.yaml": config, "policy/policy.rego": rego, "policy/data.json": data, "jwks.json": string(keys)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	var requests [][]byte
	for user := range 20 {
		token, err := sign(key, fmt.Sprintf("user-%d", user))
		if err != nil {
			return nil, err
		}
		for path := range 50 {
			wire, err := proto.Marshal(request(token, fmt.Sprintf("/orders/%d", path)))
			if err != nil {
				return nil, err
			}
			requests = append(requests, wire)
		}
	}
	return requests, nil
}

func sign(key *rsa.PrivateKey, subject string) (string, error) {
	header, _ := json.Marshal(map[string]string{"alg": "RS256", "kid": "k1", "typ": "JWT"})
	claims, _ := json.Marshal(map[string]any{"iss": "https://login.example.com", "aud": "orders", "sub": subject,
		"roles": []string{"editor", "viewer"}, "exp": time.Now().Add(time.Hour).Unix(), "email": subject + "@example.com"})
	signed := encode(header) + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	return signed + "." + encode(signature), err
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// request is what Envoy sends for a request of a browser, with 20 headers.
func request(token, path string) *authv3.CheckRequest {
	headers := map[string]string{":method": "GET", ":path": path, ":authority": "orders.example.com", ":scheme": "https",
		"authorization": "Bearer " + token, "x-request-id": "c4a1c5b0-9a52-4f3e-8a8f-0f6f6d0f7c11", "x-forwarded-proto": "https",
		"user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "accept": "application/json", "accept-language": "en-GB,en;q=0.9",
		"accept-encoding": "gzip, deflate, br", "x-forwarded-for": "203.0.113.7", "referer": "https://orders.example.com/", "cookie": "theme=dark; lang=en"}
	for i := len(headers); i < 20; i++ {
		headers[fmt.Sprintf("x-custom-%d", i)] = "some value"
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Id: "1", Method: "GET", Path: path, Host: "orders.example.com", Scheme: "https", Protocol: "HTTP/1.1", Headers: headers}}}}
}

// noopServer unmarshals a request and answers OK.
type noopServer struct {
	authv3.UnimplementedAuthorizationServer
}

func (noopServer) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil
}

func serveNoop(ctx context.Context, address string) error {
	kind := "tcp"
	if path, ok := cutPrefix(address); ok {
		kind, address = "unix", path
	}
	l, err := net.Listen(kind, address)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, noopServer{})
	go func() { <-ctx.Done(); s.Stop() }()
	return s.Serve(l)
}

func cutPrefix(address string) (string, bool) {
	if len(address) > 5 && address[:5] == "unix:" {
		return address[5:], true
	}
	return "", false
}
