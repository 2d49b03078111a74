package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	pemfile "encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/routes"
)

// The page docs/input.md is held to be true: its input is what a policy gets, its Rego compiles, and its decisions are
// taken.

var fence = regexp.MustCompile("(?s)```(json|rego)\n(.*?)```")

func inputPage(t *testing.T, language string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/input.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range fence.FindAllStringSubmatch(string(text), -1) {
		if found[1] == language {
			blocks = append(blocks, found[2])
		}
	}
	if len(blocks) == 0 {
		t.Fatalf("docs/input.md has no example in %s", language)
	}
	return blocks
}

// pageTime is when the page's request is made.
var pageTime = time.Unix(1767225600, 500)

// pageRequest is the request that the page describes, with a token of alice.
func pageRequest(token string) *gate.Request {
	const frontend = "spiffe://example.com/ns/web/sa/frontend"
	body := `{"item": "lamp", "price": 19.90}`
	return &gate.Request{Method: "POST", Path: "/users/alice/orders?dry=1", Host: "shop.example.com", Scheme: "https", Protocol: "HTTP/1.1",
		ID: "13359530607844510314", Size: int64(len(body)), Body: body, Time: pageTime, TLS: &gate.TLSSession{SNI: "shop.example.com"},
		Headers: gate.Headers{{Name: ":authority", Value: "shop.example.com"}, {Name: "authorization", Value: "Bearer " + token},
			{Name: "content-type", Value: "application/json"}, {Name: "x-request-id", Value: "a1"}},
		Source:      gate.Endpoint{Address: gate.Address{Host: "10.0.0.7", Port: 41532}, Principal: frontend},
		Destination: gate.Endpoint{Address: gate.Address{Host: "10.0.0.9", Port: 8080}},
		Extensions:  map[string]string{"tier": "internal"},
		Metadata:    map[string]any{"filterMetadata": map[string]any{"envoy.filters.http.geo": map[string]any{"country": "AT"}}},
	}
}

// ask has a gate with this policy decide about the page's request.
func ask(t *testing.T, rego string) gate.Answer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys.pem")
	write(t, keys, string(pemfile.EncodeToMemory(&pemfile.Block{Type: "PUBLIC KEY", Bytes: der})))
	verifier, err := identity.New(identity.Config{Clock: func() time.Time { return pageTime },
		Issuers: []identity.Issuer{{Issuer: "https://login.example.com", Audiences: []string{"orders"}, Keys: identity.KeySource{File: keys}}}})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := verifier.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g, err := gate.New(gate.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = g.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	cfg, _, err := config.Source{}.Read()
	if err != nil {
		t.Fatal(err)
	}
	settings, err := edge.Settings(cfg, verifier, nil)
	if err != nil {
		t.Fatal(err)
	}
	compiled := compileRego(t, rego)
	table, _, err := routes.Parse("routes.yaml", []byte("framework: flask\nroutes:\n  - {route: POST /users/<user>/orders, name: orders.create}\n"))
	if err != nil {
		t.Fatal(err)
	}
	settings.Apps[0].Name = "shop"
	settings.Apps = append(settings.Apps, gate.App{Name: "other", Hosts: []string{"other.example.com"}, Decision: settings.Apps[0].Decision})
	if err := g.Publish(ctx, func(v *gate.View) {
		v.Settings, v.Keys, v.Policy, v.Routes = settings, loaded, compiled, map[string]*routes.Table{"shop": table}
	}); err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"EdDSA","typ":"JWT"}`)) + "." + encode([]byte(`{"iss":"https://login.example.com","aud":"orders","sub":"alice",`+
		`"exp":1767229200,"roles":["customer"],"groups":["vienna"],"scope":"orders:read orders:write"}`))
	return g.Check(ctx, pageRequest(signed+"."+encode(ed25519.Sign(private, []byte(signed)))))
}

func compileRego(t *testing.T, modules ...string) *policy.Snapshot {
	t.Helper()
	files := fstest.MapFS{}
	for i, text := range modules {
		files[fmt.Sprintf("m%d.rego", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	b, err := bundle.Read("page", files, bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(t.Context(), policy.Config{Decision: "envoy/authz/allow"}, []*bundle.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestInputPageShowsTheInput(t *testing.T) {
	answer := ask(t, "package envoy.authz\n\nallow := {\"allowed\": true, \"dynamic_metadata\": {\"input\": json.marshal(input)}}\n")
	if !answer.Allow {
		t.Fatalf("denied: %s", answer.Body)
	}
	text, _ := answer.Metadata["input"].(string)
	got, want := decodeExact(t, text), decodeExact(t, inputPage(t, "json")[0])
	headers := got["attributes"].(map[string]any)["request"].(map[string]any)["http"].(map[string]any)["headers"].(map[string]any)
	headers["authorization"] = "Bearer eyJ..."
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/input.md shows another input than a policy gets: -page +input\n%s", diff)
	}
}

func decodeExact(t *testing.T, text string) (doc map[string]any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return doc
}

func TestInputPageCompiles(t *testing.T) {
	modules := []string{"package envoy.authz\n\ndefault allow := false\n"}
	for i, block := range inputPage(t, "rego") {
		if !strings.HasPrefix(block, "package ") {
			block = fmt.Sprintf("package page%d\n\n%s", i, block)
		}
		modules = append(modules, strings.Replace(block, "package envoy.authz", fmt.Sprintf("package page%d", i), 1))
	}
	compileRego(t, modules...)
}

// TestInputPageDecides asks each example of a decision, and the first policy of the page, which lets alice in by POST only
// if she is an admin: so it must not.
func TestInputPageDecides(t *testing.T) {
	taken := 0
	for i, block := range inputPage(t, "rego") {
		if i == 0 {
			if answer := ask(t, block); answer.Allow || answer.Reason != gate.Denied {
				t.Errorf("the page's policy: %v %v", answer.Allow, answer.Reason)
			}
			continue
		}
		if !strings.HasPrefix(block, "allow := {") {
			continue
		}
		taken++
		answer := ask(t, "package envoy.authz\n\n"+block)
		if want := strings.Contains(block, `"allowed": true`); answer.Allow != want || answer.Reason == gate.PolicyError {
			t.Errorf("allowed is %v, reason %v:\n%s", answer.Allow, answer.Reason, block)
		}
	}
	if taken < 5 {
		t.Errorf("only %d examples of decisions", taken)
	}
}

// TestInputPageNamesEveryReason holds that the table of outcomes has every reason with the status that it has.
func TestInputPageNamesEveryReason(t *testing.T) {
	text, err := os.ReadFile("../../docs/input.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## Denials and their reasons")
	for r := gate.BadRequest; r <= gate.Internal; r++ {
		if r == gate.NoRoute {
			continue // there is no route table yet
		}
		found := false
		for line := range strings.Lines(table) {
			found = found || strings.Contains(line, "`"+r.String()+"`") && strings.Contains(line, fmt.Sprint(r.Status()))
		}
		if !found {
			t.Errorf("the table lacks %s with %d", r, r.Status())
		}
	}
}
