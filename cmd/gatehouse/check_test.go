package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	pemfile "encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/trial"

	"go.uber.org/goleak"
)

// shopFolder is a folder with a configuration for one issuer, whose keys are where keys says.
func shopFolder(t *testing.T, keys string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write(t, filepath.Join(dir, "gatehouse.yaml"), `
identity: {jwt: [{issuer: "https://login.example.com", audiences: [orders], keys: `+keys+`, claims: {roles: "https://example.com/roles"}}]}
policy: {bundles: [{path: policy}]}
`)
	write(t, filepath.Join(dir, "policy", "authz.rego"), "package envoy.authz\n\ndefault allow := false\n\nallow if \"viewer\" in input.identity.roles\n\nallow if input.identity.claims[\"https://example.com/roles\"] == [\"boss\"]\n")
	return dir
}

func keyPair(t *testing.T) (pem string, private ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pemfile.EncodeToMemory(&pemfile.Block{Type: "PUBLIC KEY", Bytes: der})), private
}

func viewerToken(private ed25519.PrivateKey) string {
	encode := base64.RawURLEncoding.EncodeToString
	claims := fmt.Sprintf(`{"iss":"https://login.example.com","aud":"orders","sub":"alice","exp":%d,"https://example.com/roles":["viewer"]}`, time.Now().Add(time.Hour).Unix())
	signed := encode([]byte(`{"alg":"EdDSA","typ":"JWT"}`)) + "." + encode([]byte(claims))
	return signed + "." + encode(ed25519.Sign(private, []byte(signed)))
}

// TestCheckVerifiesTokens holds that --token is no claim but a credential: only the issuer's own signature allows.
func TestCheckVerifiesTokens(t *testing.T) {
	pem, private := keyPair(t)
	_, other := keyPair(t)
	dir := shopFolder(t, "{file: keys.pem}")
	write(t, filepath.Join(dir, "keys.pem"), pem)
	write(t, filepath.Join(dir, "token"), viewerToken(private)+"\n")
	for _, c := range []struct {
		token string
		code  int
		want  string
	}{
		{viewerToken(private), 0, "to app    x-auth-subject: alice\n"},
		{"@" + filepath.Join(dir, "token"), 0, "allow\n"},
		{viewerToken(other), 1, "deny 401 bad_credential\n"},
		{"nonsense", 1, "deny 401 bad_credential\n"},
	} {
		code, stdout, stderr := command(t, "check", "GET", "/", "-c", filepath.Join(dir, "gatehouse.yaml"), "--token", c.token)
		if code != c.code || !strings.Contains(stdout, c.want) {
			t.Errorf("exit code %d, want %d with %q:\n%s%s", code, c.code, c.want, stdout, stderr)
		}
		if text := stdout + stderr; strings.Contains(text, viewerToken(private)[60:]) {
			t.Error("the token is shown")
		}
	}
}

// TestKeysAreFetchedForTokensAlone holds that a caller who is made up needs no identity provider.
func TestKeysAreFetchedForTokensAlone(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var fetched atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched.Add(1) }))
	defer server.Close()
	dir := shopFolder(t, fmt.Sprintf("{url: %q}", server.URL))
	config := filepath.Join(dir, "gatehouse.yaml")
	write(t, filepath.Join(dir, "tests.yaml"), "tests:\n  - allow: {as: alice, roles: [viewer], GET: /}\n  - deny: {GET: /, status: 401}\n  - deny: {GET: /, headers: {authorization: Bearer x}, reason: bad_credential}\n")
	for _, args := range [][]string{{"check", "GET", "/", "--as", "a", "--role", "viewer"}, {"check", "GET", "/", "--as", "a", "--role", "boss"}, {"test"}} {
		if code, stdout, stderr := command(t, append(args, "-c", config)...); code != 0 || fetched.Load() != 0 {
			t.Errorf("%v: exit code %d, %d fetches:\n%s%s", args, code, fetched.Load(), stdout, stderr)
		}
	}
	_, private := keyPair(t)
	code, stdout, stderr := command(t, "check", "GET", "/", "-c", config, "--token", viewerToken(private))
	if code != 1 || fetched.Load() == 0 || !strings.Contains(stdout, "deny 503 unavailable") {
		t.Errorf("exit code %d, %d fetches:\n%s%s", code, fetched.Load(), stdout, stderr)
	}
}

// TestMissingKeysAreNeverGood holds that a key file that is not there makes its issuer unavailable, no more.
func TestMissingKeysAreNeverGood(t *testing.T) {
	dir := shopFolder(t, "{file: keys.pem}")
	_, private := keyPair(t)
	config := filepath.Join(dir, "gatehouse.yaml")
	code, stdout, stderr := command(t, "check", "GET", "/", "-c", config, "--token", viewerToken(private))
	if code != 1 || !strings.Contains(stdout, "deny 503 unavailable") || !strings.Contains(stderr, "notice: there is no key file "+filepath.Join(dir, "keys.pem")) {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	if code, _, stderr := command(t, "serve", "-c", config); code != 2 || !strings.Contains(stderr, "keys.file: there is no "+filepath.Join(dir, "keys.pem")) {
		t.Errorf("serve: exit code %d: %s", code, stderr)
	}
}

// TestTheExamplePasses runs the tests of examples/flask-orders: those of its policy and its table.
func TestTheExamplePasses(t *testing.T) {
	code, stdout, stderr := command(t, "test", "-v", "-c", "../../examples/flask-orders/gatehouse.yaml")
	if code != 0 || strings.Count(stdout, "orders_test.rego") != 7 || strings.Count(stdout, "tests.yaml") < 15 {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
}

// TestTheDriveExamplePasses runs the table of examples/rebac-drive, which the directory's files answer.
func TestTheDriveExamplePasses(t *testing.T) {
	code, stdout, stderr := command(t, "test", "-c", "../../examples/rebac-drive/gatehouse.yaml")
	if code != 0 || stdout != "23 passed, 0 failed\n" {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	for who, want := range map[string]string{"bob": "  user      bob (Bob Okafor)\n", "mallory": "  user      not in the directory: "} {
		if _, stdout, stderr := command(t, "check", "GET", "/files/logo", "--as", who, "-c", "../../examples/rebac-drive/gatehouse.yaml"); !strings.Contains(stdout, want) {
			t.Errorf("check says nothing of %q:\n%s%s", want, stdout, stderr)
		}
	}
}

// TestTheTestingPageIsTrue runs the table that docs/testing.md shows, against the example that it speaks of.
func TestTheTestingPageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	table, _, _ := strings.Cut(rest, "```")
	file := filepath.Join(t.TempDir(), "page.yaml")
	write(t, file, table)
	code, stdout, stderr := command(t, "test", "-c", "../../examples/flask-orders/gatehouse.yaml", file)
	if code != 0 || stdout != "11 passed, 0 failed\n" {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
}

// TestThousandsOfRows holds that a table costs its requests and no more: one engine, no pauses.
func TestThousandsOfRows(t *testing.T) {
	dir := shopFolder(t, "{file: keys.pem}")
	rows := []byte("tests:\n")
	const count = 10_000
	for i := range count {
		rows = fmt.Appendf(rows, "  - allow: {as: u%d, roles: [viewer], GET: /orders/%d}\n", i, i)
	}
	write(t, filepath.Join(dir, "tests.yaml"), string(rows))
	started := time.Now()
	code, stdout, stderr := command(t, "test", "-c", filepath.Join(dir, "gatehouse.yaml"), "--junit", filepath.Join(dir, "report.xml"))
	took := time.Since(started)
	if code != 0 || stdout != fmt.Sprintf("%d passed, 0 failed\n", count) {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	t.Logf("%d requests in %s", count, took)
	if took > 30*time.Second {
		t.Errorf("%d requests took %s", count, took)
	}
}

// TestReportsAreXML writes names and reasons that would break a careless report, and reads it back.
func TestReportsAreXML(t *testing.T) {
	dir := shopFolder(t, "{file: keys.pem}")
	write(t, filepath.Join(dir, "policy", "authz.rego"), "package envoy.authz\n\nallow := {\"allowed\": false, \"reason\": \"<b>]]>&\\u0001\"}\n")
	write(t, filepath.Join(dir, "policy", "a_test.rego"), "package a_test\n\ntest_a if { print(\"\\u0000<x>\"); false }\n")
	long := strings.Repeat("x", 10_000)
	write(t, filepath.Join(dir, "tests.yaml"), "tests:\n  - {name: \"a\\u0008 <&>\\\"\", allow: {as: a, GET: /}}\n  - {name: "+long+", deny: {as: a, GET: /, reason: "+long+"}}\n")
	report := filepath.Join(dir, "report.xml")
	if code, stdout, stderr := command(t, "test", "-c", filepath.Join(dir, "gatehouse.yaml"), "--junit", report); code != 1 {
		t.Fatalf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(bytes.NewReader(text))
	cases := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "testcase" {
			cases++
		}
	}
	if cases != 3 || len(text) > 5*(4<<10) {
		t.Errorf("%d cases in %d bytes", cases, len(text))
	}
}

// TestCheckPrintsOneObject holds that --json is one line of JSON, whatever the policy says.
func TestCheckPrintsOneObject(t *testing.T) {
	dir := shopFolder(t, "{file: keys.pem}")
	write(t, filepath.Join(dir, "policy", "authz.rego"), "package envoy.authz\n\nallow := {\"allowed\": false, \"body\": \"a\\n<b>\", \"http_status\": 418}\n")
	_, stdout, _ := command(t, "check", "GET", "/", "--as", "a", "--json", "-c", filepath.Join(dir, "gatehouse.yaml"))
	var got trial.Result
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || strings.Count(stdout, "\n") != 1 {
		t.Fatalf("%v: %s", err, stdout)
	}
	if got.Allow || got.Status != 418 || got.Body != "a\n<b>" || got.ClientReason != "" || got.Reason != "denied" {
		t.Errorf("%+v", got)
	}
}

// TestCheckHints holds that a slip in what is asked about is told.
func TestCheckHints(t *testing.T) {
	for name, tt := range map[string]struct{ path, as, want string }{
		"a letter":      {"/files/logo", "alise", "alise is not in the directory; did you mean alice?"},
		"with its type": {"/files/logo", "user:alice", "did you mean alice, without user:?"},
		"no slash":      {"files/logo", "alice", "path refused: not_absolute (it must begin with /)"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := command(t, "check", "GET", tt.path, "--as", tt.as, "-c", "../../examples/rebac-drive/gatehouse.yaml")
			if code != 1 || !strings.Contains(stdout+stderr, tt.want) {
				t.Errorf("code %d, %s%s", code, stdout, stderr)
			}
		})
	}
}
