package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/identity"
)

// whoCalls allows everybody who is known, and says whom it saw.
const whoCalls = `package envoy.authz

default allow := {"allowed": false, "reason": "unknown"}

allow := {"allowed": true, "headers": {"x-seen": seen, "x-peer": peer}} if input.identity.authenticated

seen := concat(" ", [input.identity.type, input.identity.subject, concat(",", input.identity.roles), object.get(input.identity.claims, "key_id", "-")])

default peer := "-"

peer := concat(" ", [input.peer.spiffe_id, input.peer.subject, concat(",", input.peer.sans)])
`

const otherCredentials = `
listen: {grpc: ["$GRPC"], admin: "$ADMIN"}
log: {level: debug}
identity:
  api_keys: {file: keys.yaml, header: x-partner}
  introspection:
    - {url: "$SERVER", client_id: gatehouse, client_secret_file: client.secret, from: [{header: x-opaque}, {header: authorization, scheme: Bearer}]}
  jwt_authn_metadata: {name: payload}
  peer: {from: [tls, xfcc]}
policy: {bundles: [{path: policy}]}
decision_log: {file: decisions.log}
`

const (
	opaqueToken   = "opaque-token-of-alice"
	downToken     = "opaque-token-that-fails"
	inactiveToken = "opaque-token-revoked"
	sharedSecret  = "secret-of-ours"
)

// opaqueServer says what opaqueToken is worth (RFC 7662) and fails for downToken.
func opaqueServer(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "application/json")
		switch {
		case id != "gatehouse" || secret != sharedSecret:
			w.WriteHeader(http.StatusUnauthorized)
		case r.PostFormValue("token") == opaqueToken:
			fmt.Fprint(w, `{"active":true,"sub":"alice","roles":["clerk"]}`)
		case r.PostFormValue("token") == downToken:
			w.WriteHeader(http.StatusInternalServerError)
		default:
			fmt.Fprint(w, `{"active":false}`)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// makeKey runs gatehouse identity new-key and gives the key.
func (p *process) makeKey(args ...string) string {
	p.t.Helper()
	cmd := exec.Command("gatehouse", append([]string{"identity", "new-key", "--file", "keys.yaml"}, args...)...)
	cmd.Dir = p.dir
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// credential is what a request says of its caller.
type credential struct {
	headers   map[string]string
	payload   map[string]any // that jwt_authn leaves
	principal string
}

func (c credential) ask(t *testing.T, conn *grpc.ClientConn) *auth.CheckResponse {
	t.Helper()
	attributes := &auth.AttributeContext{Source: &auth.AttributeContext_Peer{Principal: c.principal},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/", Host: "app", Scheme: "http", Headers: c.headers}}}
	if c.payload != nil {
		filter, err := structpb.NewStruct(map[string]any{"payload": c.payload})
		if err != nil {
			t.Fatal(err)
		}
		attributes.MetadataContext = &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.filters.http.jwt_authn": filter}}
	}
	resp, err := auth.NewAuthorizationClient(conn).Check(t.Context(), &auth.CheckRequest{Attributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// TestServeTakesOtherCredentials sends API keys, opaque tokens and verified metadata to a running server: the policy and the
// decision log see who calls, and no credential shows anywhere.
func TestServeTakesOtherCredentials(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "")
	p.configure(strings.ReplaceAll(otherCredentials, "$SERVER", opaqueServer(t)))
	write(t, p.path("policy", "authz.rego"), whoCalls)
	write(t, p.path("client.secret"), sharedSecret+"\n")
	key := p.makeKey("--subject", "ci", "--role", "deployer", "--role", "viewer", "--id", "first")
	p.ready()
	conn := dial(t, p.grpc, nil)
	const workload = "spiffe://example.org/web"
	header := func(name, value string) credential { return credential{headers: map[string]string{name: value}} }
	verified := map[string]any{"sub": "bob", "iss": "https://envoy.example", "roles": []any{"editor"}, "exp": float64(time.Now().Add(time.Hour).Unix())}
	var shown strings.Builder
	for name, tt := range map[string]struct {
		credential
		status int
		want   string // what the policy saw, or the reason in the log
	}{
		"an API key":         {header("x-partner", key), 200, "IDENTITY_TYPE_SUB ci deployer,viewer first|-"},
		"an opaque token":    {header("authorization", "Bearer "+opaqueToken), 200, "IDENTITY_TYPE_SUB alice clerk -|-"},
		"in another header":  {header("x-opaque", opaqueToken), 200, "IDENTITY_TYPE_SUB alice clerk -|-"},
		"what Envoy checked": {credential{payload: verified}, 200, "IDENTITY_TYPE_JWT bob editor -|-"},
		"a key and a peer": {credential{principal: workload, headers: map[string]string{"x-partner": key, "x-forwarded-client-cert": `URI=spiffe://evil;Subject="CN=evil",By=a;Hash=00;Subject="CN=web";URI=` + workload + `;DNS=web`}},
			200, "IDENTITY_TYPE_SUB ci deployer,viewer first|" + workload + " CN=web " + workload + ",web"},
		"a peer alone":            {credential{principal: workload}, 401, "no_credential: the policy denies a caller without a credential"},
		"nothing":                 {credential{}, 401, "no_credential: the policy denies a caller without a credential"},
		"a key that is cut off":   {header("x-partner", key[:60]), 401, "bad_credential: bad credential: api key is mistyped or cut off"},
		"a key among the tokens":  {header("x-opaque", key), 401, "bad_credential: bad credential: api key in a place for tokens"},
		"a revoked token":         {header("x-opaque", inactiveToken), 401, "bad_credential: bad credential: token is not active"},
		"a server that fails":     {header("x-opaque", downToken), 503, "unavailable: identity unavailable: introspection server failed"},
		"key and token":           {credential{headers: map[string]string{"x-partner": key, "x-opaque": opaqueToken}}, 401, "bad_credential: bad credential: different credentials on one request"},
		"token and what is known": {credential{payload: verified, headers: map[string]string{"x-opaque": opaqueToken}}, 401, "bad_credential: bad credential: different credentials on one request"},
	} {
		resp := tt.ask(t, conn)
		text, err := protojson.Marshal(resp)
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(text)
		got := map[string]string{}
		for _, h := range resp.GetOkResponse().GetHeaders() {
			got[h.Header.Key] = h.Header.Value + string(h.Header.RawValue)
		}
		status := 200
		if denied := resp.GetDeniedResponse(); denied != nil {
			status = int(denied.GetStatus().GetCode())
		}
		if status != tt.status || status == 200 && got["x-seen"]+"|"+got["x-peer"] != tt.want {
			t.Errorf("%s: %d %q, want %d %q", name, status, got["x-seen"]+"|"+got["x-peer"], tt.status, tt.want)
		}
		if status != 200 {
			e := p.decision(resp)
			if have := cmp.Or(e.Error.Message, e.Reason); have != tt.want {
				t.Errorf("%s: loggedCall %q, want %q", name, have, tt.want)
			}
		} else if e := p.decision(resp); e.Identity.Type+" "+e.Identity.Subject+" "+strings.Join(e.Identity.Roles, ",") !=
			strings.Join(strings.Split(strings.Split(tt.want, "|")[0], " ")[:3], " ") || e.Input.Identity.Subject != e.Identity.Subject {
			t.Errorf("%s: loggedCall %+v, want %q", name, e, tt.want)
		}
	}

	second := p.makeKey("--subject", "ci", "--id", "second", "--expires", "1d")
	eventually(t, "waiting for the second key", func() error {
		for _, k := range []string{key, second} {
			if header("x-partner", k).ask(t, conn).GetDeniedResponse() != nil {
				return errors.New("denied")
			}
		}
		return nil
	})
	write(t, p.path("keys.yaml"), "keys:\n  - key: "+key+"\n    subject: ci\n")
	eventually(t, "waiting for the broken file to show", func() error {
		if k := p.status().Keys; len(k) != 2 || !slices.ContainsFunc(k, func(s identity.KeyStatus) bool {
			return strings.Contains(s.Error, "keys.yaml:2: key would hold a key in plain text")
		}) {
			return fmt.Errorf("%+v", k)
		}
		return nil
	})
	if header("x-partner", second).ask(t, conn).GetDeniedResponse() != nil {
		t.Error("the broken file took the keys away")
	}
	_, page := p.get("/status")
	_, metrics := p.get("/metrics")
	log, err := os.ReadFile(p.path("decisions.log"))
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"an answer": shown.String(), "the log": p.stderr.String(), "the decision log": string(log), "/status": page, "/metrics": metrics} {
		for _, secret := range []string{key[19:50], second[19:50], opaqueToken, downToken, inactiveToken, sharedSecret} {
			if strings.Contains(text, secret) {
				t.Errorf("a credential shows in %s", where)
			}
		}
	}
}

// loggedCall is what the decision log says of one request.
type loggedCall struct {
	ID       string `json:"decision_id"`
	Reason   string
	Error    struct{ Message string }
	Identity struct {
		Type, Subject string
		Roles         []string
	}
	Input struct{ Identity struct{ Subject string } }
}

// decision waits for the entry of an answer.
func (p *process) decision(resp *auth.CheckResponse) (found loggedCall) {
	p.t.Helper()
	id := resp.GetDynamicMetadata().GetFields()["decision_id"].GetStringValue()
	eventually(p.t, "waiting for the decision log", func() error {
		text, err := os.ReadFile(p.path("decisions.log"))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			var e loggedCall
			if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &e) == nil && e.ID == id {
				found = e
				return nil
			}
		}
		return fmt.Errorf("no entry of %q", id)
	})
	return found
}
