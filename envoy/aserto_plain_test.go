package envoy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	bignum "math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

// TestAsertoWithoutSDK asks the founding example both ways: app.py, which asks Gatehouse itself by Aserto's SDK, and app_plain.py, which is the same
// without the SDK, behind Envoy. One Gatehouse with one policy and one directory answers both, and for everybody and every path alike, also
// after the directory has changed.
func TestAsertoWithoutSDK(t *testing.T) {
	t.Parallel()
	dir := copyOf(t, "flask-aserto")
	onlyLess(t, read(t, filepath.Join(dir, "app.py")), read(t, filepath.Join(dir, "app_plain.py")))
	python, err := sandbox.Clients(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if python, err = filepath.Abs(python); err != nil {
		t.Fatal(err)
	}
	selfSigned(t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	key := strings.Fields(gatehouse(t, dir, "identity", "new-key", "--subject", "app", "--scope", "act-as", "--file", "keys.yaml"))[0]
	handedOut.add(key)
	port := freePort(t)
	amend(t, filepath.Join(dir, "gatehouse.yaml"), at(9195), at(port))
	s := startStack(t, dir, map[int]int{8000: serve(t, "plain", dir, gunicorn(flaskPython(t), "app_plain:app"))})
	sdk := serve(t, "sdk", dir, []string{python, "-m", "flask", "--app", "app", "run", "--port", "PORT"},
		"AUTHORIZER_URL="+strings.Replace(at(port), "127.0.0.1", "localhost", 1), "AUTHORIZER_API_KEY="+key, "AUTHORIZER_CERT="+filepath.Join(dir, "tls.crt"))

	const host = "example.com"
	ask := func(user, path string) (bySDK, byEnvoy verdict) {
		request, own, token := "GET "+path, "", ""
		if user != "" {
			own, token = "x-user: "+user+"\r\n", "Authorization: Bearer "+s.token("example", user)
		}
		return send(t, sdk, request+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n"+own+"\r\n"), s.say(t, request, host, token)
	}
	both := func(users ...string) (allowed int) {
		for _, user := range users {
			for _, path := range []string{"public", "secret", "handbook", "HANDBOOK", "Public", "a%20b", "public?parameter=secret", "secret?parameter=public", "h%61ndbook", "*"} {
				bySDK, byEnvoy := ask(user, "/protected_route/"+path)
				if (bySDK.Status == 200) != (byEnvoy.Status == 200) || bySDK.Status == 200 && bySDK.Body != byEnvoy.Body {
					t.Errorf("%q %s: %d %s by the SDK, %s %s behind Envoy", user, path, bySDK.Status, bySDK.Body, byEnvoy, byEnvoy.Body)
				}
				if bySDK.Status != 200 && bySDK.Status != 403 || byEnvoy.Status != 200 && byEnvoy.Status != 401 && byEnvoy.Status != 403 {
					t.Errorf("%q %s: %d by the SDK, %s behind Envoy", user, path, bySDK.Status, byEnvoy)
				}
				if byEnvoy.Status == 200 {
					allowed++
				}
			}
		}
		return allowed
	}
	const before = 10 + 4 // vera all, bob what is public or shared with him, spelt either way
	if n := both("", "vera", "bob", "mallory", "viewers"); n != before {
		t.Errorf("%d are allowed, want %d", n, before)
	}
	add(t, filepath.Join(dir, "directory", "relations.jsonl"),
		`{"object_type": "resource", "object_id": "handbook", "relation": "owner", "subject_type": "group", "subject_id": "viewers", "subject_relation": "member"}`+"\n"+
			`{"object_type": "group", "object_id": "viewers", "relation": "member", "subject_type": "user", "subject_id": "bob"}`+"\n")
	s.awaitAnswer(t, "GET /protected_route/secret", host, "app 200", "Authorization: Bearer "+s.token("example", "bob"))
	if n := both("bob", "viewers"); n != 10 {
		t.Errorf("after bob has become a viewer %d are allowed, want 10", n)
	}
	decided := read(t, filepath.Join(dir, "decisions.log"))
	if !contains(decided, `"path":"example.GET.protected_route.__parameter"`) || !contains(decided, `"template":"/protected_route/\u003cparameter\u003e"`) && !contains(decided, `"template":"/protected_route/<parameter>"`) {
		t.Errorf("the decision log lacks one of the two ways: %.2000s", decided)
	}
}

// onlyLess holds that less is full without some of its lines, and without all that speak of the SDK.
func onlyLess(t *testing.T, full, less string) {
	t.Helper()
	rest := strings.Split(full, "\n")
	for i, line := range strings.Split(less, "\n") {
		for len(rest) > 0 && rest[0] != line {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			t.Fatalf("line %d, %q, is not in the application with the SDK, or not in this order", i+1, line)
		}
		rest = rest[1:]
	}
	if contains(strings.ToLower(less), "aserto") {
		t.Error("the application without the SDK speaks of it")
	}
}

// selfSigned writes a certificate for localhost that is its own authority.
func selfSigned(t *testing.T, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: bignum.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}
