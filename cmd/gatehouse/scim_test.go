package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
)

// plane is a control plane as a process, with an identity provider that pushes to it.
type plane struct {
	t     *testing.T
	dir   string
	url   string
	cmd   *exec.Cmd
	admin string
	scim  string // the provider's token
	http  *http.Client
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{t: t, dir: t.TempDir()}
	address := freeAddress(t)
	p.url = "https://" + address
	p.cmd = exec.Command("gatehouse", "control", "serve", "--data", filepath.Join(p.dir, "data"), "--listen", address)
	out, log := &output{}, &output{}
	p.cmd.Stdout, p.cmd.Stderr = out, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("control's standard error:\n%s", log.String())
		}
	})
	token := regexp.MustCompile(`GATEHOUSE_CONTROL_TOKEN=(\S+)`)
	eventually(t, "waiting for control", func() error {
		m := token.FindStringSubmatch(out.String())
		if m == nil {
			return fmt.Errorf("%s", out.String())
		}
		p.admin = m[1]
		return nil
	})
	ca, err := os.ReadFile(filepath.Join(p.dir, "data", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	p.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(p.http.CloseIdleConnections)
	p.scim = strings.TrimSpace(p.run("token", "create", "okta", "--scope", "scim:default/prod"))
	return p
}

// run runs gatehouse control.
func (p *plane) run(args ...string) string {
	p.t.Helper()
	c := exec.Command("gatehouse", append([]string{"control"}, args...)...)
	c.Env = append(os.Environ(), "GATEHOUSE_CONTROL_TOKEN="+p.admin, "GATEHOUSE_CONTROL_URL="+p.url, "GATEHOUSE_CONTROL_CA="+filepath.Join(p.dir, "data", "ca.pem"))
	c.Dir = p.dir
	out, err := c.Output()
	if err != nil {
		p.t.Fatalf("%q: %v", args, err)
	}
	return string(out)
}

// push makes a request of the provider, and returns the id of the resource.
func (p *plane) push(method, path, body string) string {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, p.url+"/scim/v2/default/prod"+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+p.scim)
	a, err := p.http.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode >= 300 {
		p.t.Fatalf("%s %s: %d %s %v", method, path, a.StatusCode, text, err)
	}
	var out struct{ ID string }
	_ = json.Unmarshal(text, &out) // a deletion has none
	return out.ID
}

// decided is what an edge says to a caller: the status, and the reason of a denial.
func decided(ctx context.Context, conn *grpc.ClientConn, token string) (int32, string, error) {
	ctx, cancel := context.WithTimeout(ctx, hangGuard)
	defer cancel()
	a, err := auth.NewAuthorizationClient(conn).Check(ctx, &auth.CheckRequest{Attributes: &auth.AttributeContext{Request: &auth.AttributeContext_Request{
		Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/", Host: "app", Scheme: "http", Headers: map[string]string{"authorization": "Bearer " + token}}}}})
	if err != nil {
		return 0, "", err
	}
	if denied := a.GetDeniedResponse(); denied != nil {
		return int32(denied.GetStatus().GetCode()), denied.GetBody(), nil
	}
	return 200, "", nil
}

// TestScimReachesEdges: a user whom an identity provider makes is allowed by his group at two edges; deactivated there, he is
// refused at both within a second, whatever is remembered; and stays so when control is gone and an edge starts anew.
func TestScimReachesEdges(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	var edges []*process
	var conns []*grpc.ClientConn
	for i := range 2 {
		name := fmt.Sprint("edge-", i+1)
		e := newProcess(t, fmt.Sprintf(`
listen: {grpc: ["$GRPC"], admin: "$ADMIN"}
state_dir: state
policy: {bundles: [{path: policy}]}
identity: {jwt: [{issuer: "http://localhost/issuer", audiences: [app], keys: {file: issuer/jwks.json}}]}
directory:
  control: true
  unknown_user: deny
control: {url: %q, ca: %q, enroll_token_file: enroll.token}
`, p.url, filepath.Join(p.dir, "data", "ca.pem")))
		write(t, e.path("policy", "authz.rego"), "package envoy.authz\n\ndefault allow := false\n\nallow if \"eng\" in input.user.groups\n")
		p.run("enroll", "--edge", name, "--out", e.path("enroll.token"))
		edges, conns = append(edges, e), append(conns, dial(t, e.grpc, nil))
	}
	token := func(e *process, sub string) string {
		code, out, errs := e.gatehouse("token", "mint", "--sub", sub, "--aud", "app")
		if code != 0 {
			t.Fatal(errs)
		}
		return strings.TrimSpace(out)
	}
	tokens := map[string][]string{}
	for _, e := range edges {
		for _, sub := range []string{"ann@example.com", "bob@example.com"} {
			tokens[sub] = append(tokens[sub], token(e, sub))
		}
		e.ready()
	}
	say := func(sub string, status int32, body string) {
		t.Helper()
		for i, conn := range conns {
			eventually(t, fmt.Sprintf("%s has %d %s at edge %d", sub, status, body, i+1), func() error {
				got, text, err := decided(t.Context(), conn, tokens[sub][i])
				if err != nil || got != status || !strings.Contains(text, body) {
					return fmt.Errorf("%d %s %w", got, text, err)
				}
				return nil
			})
		}
	}
	say("ann@example.com", 403, "")
	ann := p.push("POST", "/Users", `{"userName":"Ann@example.com","active":true}`)
	bob := p.push("POST", "/Users", `{"userName":"bob@example.com"}`)
	p.push("POST", "/Groups", fmt.Sprintf(`{"displayName":"eng","members":[{"value":%q},{"value":%q}]}`, ann, bob))
	say("ann@example.com", 200, "")
	say("ann@example.com", 200, "") // remembered
	say("bob@example.com", 200, "")

	began := time.Now()
	p.push("PATCH", "/Users/"+ann, `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"Replace","path":"active","value":"False"}]}`)
	pushed := time.Since(began)
	say("ann@example.com", 403, "disabled_user")
	t.Logf("refused at both edges %v after the provider began to say so; control had answered after %v", time.Since(began).Round(time.Millisecond), pushed.Round(time.Millisecond))
	say("bob@example.com", 200, "")
	began = time.Now()
	p.push("DELETE", "/Users/"+bob, "")
	say("bob@example.com", 403, "unknown_user")
	t.Logf("a deleted user is refused after %v", time.Since(began).Round(time.Millisecond))

	_ = p.cmd.Process.Kill()
	edges[0].signal(syscall.SIGTERM)
	edges[0].exit()
	again := newProcess(t, "")
	again.dir, again.grpc, again.admin = edges[0].dir, edges[0].grpc, edges[0].admin
	again.ready()
	say("ann@example.com", 403, "disabled_user")
	say("bob@example.com", 403, "unknown_user")
}
