//go:build module

package inenvoy_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/children"
)

// issue makes a certificate, signed by its parent or by itself.
func issue(t *testing.T, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestSamePrincipals: who a client's certificate says that it is, and the server's name, are told as over gRPC.
func TestSamePrincipals(t *testing.T) {
	ca, caKey := issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	own, ownKey := issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"a.test", "b.test"}}, ca, caKey)
	w := start(t, plainConfig, map[string]string{"p.rego": denyOdd}, []variant{{name: "tls", filter: "include_tls_session: true", tls: true}}, func(w *world) {
		block := func(kind string, der []byte) string {
			return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
		}
		key, err := x509.MarshalPKCS8PrivateKey(ownKey)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(w.dir, "ca.pem"), block("CERTIFICATE", ca.Raw))
		write(t, filepath.Join(w.dir, "cert.pem"), block("CERTIFICATE", own.Raw))
		write(t, filepath.Join(w.dir, "key.pem"), block("PRIVATE KEY", key))
	})
	for _, c := range []*x509.Certificate{
		nil,
		{Subject: pkix.Name{CommonName: "only a subject", Organization: []string{"x, y"}}},
		{Subject: pkix.Name{CommonName: "s"}, DNSNames: []string{"one.test", "two.test"}},
		{Subject: pkix.Name{CommonName: "s"}, DNSNames: []string{"one.test"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "d", Path: "/one"}}},
		{Subject: pkix.Name{CommonName: "s"}, EmailAddresses: []string{"a@b.test"}, IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)}},
		{URIs: []*url.URL{{Scheme: "spiffe", Host: "d", Path: "/two"}}},
	} {
		config := &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"}
		if c != nil {
			cert, key := issue(t, c, ca, caKey)
			config.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
		}
		var got []answer
		for _, s := range []*side{&w.server, &w.module} {
			conn, err := tls.Dial("tcp", children.Loopback(s.ports["tls"]), config)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, "GET /yes HTTP/1.1\r\nhost: a\r\n\r\n")
			got = append(got, tidy(w, read(bufio.NewReader(conn), "GET")))
			conn.Close()
		}
		if diff := cmp.Diff(got[0], got[1]); diff != "" || got[0].Status != 200 {
			t.Errorf("%v: %d\n%s", c, got[0].Status, diff)
		}
	}
	w.compareLogs(t, nil)
	for _, line := range w.lines(t, "module/decisions.jsonl", nil) {
		t.Log(fmt.Sprint(line.(map[string]any)["input"].(map[string]any)["attributes"].(map[string]any)["source"]))
	}
}
