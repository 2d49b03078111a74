package extauthz_test

import (
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/identity/attack"
)

// checkOf is a case as Envoy asks about it: with encode_raw_headers line by line and as bytes; without, lines of one name in one
// with commas (cookies with semicolons), and none that is not UTF-8.
func checkOf(c attack.Case, raw bool) *authv3.CheckRequest {
	http := &authv3.AttributeContext_HttpRequest{Method: "GET", Host: "orders.example.com", Path: "/orders", Protocol: "HTTP/1.1"}
	if c.Query != "" {
		http.Path += "?" + c.Query
	}
	if raw {
		http.HeaderMap = &corev3.HeaderMap{}
	} else {
		http.Headers = map[string]string{}
	}
	for _, line := range c.Headers {
		name, value := line[0], line[1]
		if raw {
			http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
			continue
		}
		if before, repeated := http.Headers[name]; repeated {
			separator := ","
			if name == "cookie" {
				separator = "; "
			}
			value = before + separator + value
		}
		http.Headers[name] = strings.ToValidUTF8(value, "!")
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: http}}}
}

// Every case of the attack suite over gRPC: who is let in is let in by name, nobody else is anybody, and what was wrong is
// written down, without a word of the token.
func TestAttacksOverGRPC(t *testing.T) {
	s := attack.New(time.Now())
	dir := t.TempDir()
	if err := s.WriteKeys(dir); err != nil {
		t.Fatal(err)
	}
	config := s.Config(dir)
	config.Clock = func() time.Time { return s.Now }
	verifier, err := identity.New(config)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := verifier.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	set := settings()
	set.Verifier, set.Limits.Message = verifier, 4<<20 // so that a megabyte of token is for the verifier to refuse
	if err := set.Validate(); err != nil {
		t.Fatal(err)
	}
	policy := compile(t, "package envoy.authz\nallow := true")
	core, logged := observer.New(zapcore.DebugLevel)
	envoy := authv3.NewAuthorizationClient(connection(t, gate.Config{Logger: zap.New(core)}, func(v *gate.View) { v.Settings, v.Policy, v.Keys = set, policy, keys }))
	for _, c := range s.Cases {
		for _, raw := range []bool{true, false} {
			if !raw && (c.Repeats() || !c.Text()) {
				continue // other bytes arrive than those that the table is about
			}
			answer, err := envoy.Check(t.Context(), checkOf(c, raw))
			if err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
			subject := ""
			for _, h := range answer.GetOkResponse().GetHeaders() {
				if h.GetHeader().GetKey() == "x-auth-subject" {
					subject = h.GetHeader().GetValue() + string(h.GetHeader().GetRawValue())
				}
			}
			cause := ""
			for _, e := range logged.TakeAll() {
				cause, _ = e.ContextMap()["error"].(string)
			}
			allowed, denied := answer.GetOkResponse() != nil, int(answer.GetDeniedResponse().GetStatus().GetCode())
			switch c.Want {
			case attack.OK:
				if !allowed || subject == "" {
					t.Errorf("%s (raw: %t): %d %s, want a subject", c.Name, raw, denied, cause)
				}
			case attack.Anonymous:
				if !allowed || subject != "" {
					t.Errorf("%s (raw: %t): %d %s, subject %q, want nobody", c.Name, raw, denied, cause, subject)
				}
			default:
				if want := "bad_credential: bad credential: " + c.Want; denied != 401 || cause != want {
					t.Errorf("%s (raw: %t): %d %q, want 401 %q", c.Name, raw, denied, cause, want)
				}
			}
		}
	}
	t.Logf("%d cases", len(s.Cases))
}
