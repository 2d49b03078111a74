package identity_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/apikey"
)

// A SPIFFE id is taken for one only where it is well-formed; other names of the certificate stay names.
func TestSPIFFEIDsAreValidated(t *testing.T) {
	v := newVerifier(t, identity.Config{Peer: []string{"tls", "xfcc"}})
	for id, valid := range map[string]bool{
		"spiffe://example.org":                                            true,
		"spiffe://example.org/a":                                          true,
		"spiffe://example.org/ns/Shop/sa/web-1_2.x":                       true,
		"spiffe://a-b_c.1/x":                                              true,
		"spiffe://example.org/...":                                        true,
		"spiffe://":                                                       false,
		"spiffe:///a":                                                     false,
		"spiffe://example.org/":                                           false,
		"spiffe://example.org/a/":                                         false,
		"spiffe://example.org//a":                                         false,
		"spiffe://example.org/a/./b":                                      false,
		"spiffe://example.org/../b":                                       false,
		"spiffe://example.org/a/..":                                       false,
		"spiffe://Example.org/a":                                          false,
		"SPIFFE://example.org/a":                                          false,
		"Spiffe://example.org/a":                                          false,
		"spiffe://example.org:443/a":                                      false,
		"spiffe://user@example.org/a":                                     false,
		"spiffe://example.org/a?b=c":                                      false,
		"spiffe://example.org?b=c":                                        false,
		"spiffe://example.org/a#b":                                        false,
		"spiffe://example.org/a%2fb":                                      false,
		"spiffe://example.org/a b":                                        false,
		"spiffe://example.org/a~b":                                        false,
		"spiffe://example.org/\u00fc":                                     false,
		"spiffe://b\u00fccher.example/a":                                  false,
		"spiffe://example.org/a\\b":                                       false,
		"spiffe://example.org/a;b":                                        false,
		"spiffe://[::1]/a":                                                false,
		"spiffe:example.org/a":                                            false,
		"spiffe:/example.org/a":                                           false,
		"spiffe://" + strings.Repeat("a", 255) + "/x":                     true,
		"spiffe://" + strings.Repeat("a", 256) + "/x":                     false,
		"spiffe://example.org/" + strings.Repeat("a", 2048-21):            true,
		"spiffe://example.org/" + strings.Repeat("a", 2048-20):            false,
		"spiffe://example.org/" + strings.Repeat("a/", 1000) + "CN=admin": false,
	} {
		lines := []string{`URI="` + strings.NewReplacer(`\`, `\\`).Replace(id) + `"`}
		for how, peer := range map[string]identity.Peer{
			"tls": v.Peer(peerRequest(id)), "xfcc": v.Peer(peerRequest(id, lines...)), "nil": (*identity.Verifier)(nil).Peer(peerRequest(id)),
		} {
			want := ""
			if valid {
				want = id
			}
			if peer.SPIFFEID != want || peer.Subject != "" || len(peer.SANs) != 1 || peer.SANs[0] != id {
				t.Errorf("%s: %.60q gives %.200v", how, id, peer)
			}
		}
	}
}

// Where Envoy sends the certificate, its id counts only as its one URI.
func TestOneURIOfACertificate(t *testing.T) {
	encoded := func(uris ...string) string {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: noon}
		for _, text := range uris {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			template.URIs = append(template.URIs, u)
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, keyRing().p256.Public(), keyRing().p256)
		if err != nil {
			t.Fatal(err)
		}
		return url.QueryEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	escaped := func(s string) string { return strings.ReplaceAll(s, "+", "%20") }
	v := newVerifier(t, identity.Config{})
	for certificate, want := range map[string]string{
		"":                         workload,
		escaped(encoded(workload)): workload,
		escaped(encoded(workload, "https://a.example")):           "",
		escaped(encoded(workload, "spiffe://evil.example/admin")): "",
		escaped(encoded()):         "",
		"no certificate":           "",
		strings.Repeat("a", 1<<20): "",
	} {
		r := peerRequest(workload)
		r.Certificate = certificate
		for range 2 { // the second time it is remembered
			for _, v := range []*identity.Verifier{v, nil} {
				if got := v.Peer(r).SPIFFEID; got != want {
					t.Errorf("%.40q: %q, want %q", certificate, got, want)
				}
			}
		}
	}
}

// A file that went away or broke is degraded until it is back, and what it held goes on serving.
func TestFilesThatGoAwayAreDegraded(t *testing.T) {
	k := newKey(t, apikey.Entry{ID: "a", Subject: "ci"})
	path, jwksPath := keyFile(t, k), temp(t, keysOfA())
	config := oneIssuer(identity.KeySource{File: jwksPath})
	config.APIKeys = identity.APIKeys{File: path}
	r := run(t, config)
	all := func(keys *identity.Keys) string { return strings.Join(r.v.Degraded(keys), "\n") }
	file := func(n int, broken bool) func(identity.KeyStatus) bool {
		return func(s identity.KeyStatus) bool { return s.Loaded && (s.Error != "") == broken && s.Keys == n }
	}
	keys := r.keysWhere("both files", func(k *identity.Keys) bool { return file(4, false)(k.Status()[0]) && file(1, false)(k.Status()[1]) })
	if got := all(keys); got != "" {
		t.Errorf("degraded at first: %s", got)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	keys = r.keysWhere("the API keys' file gone", func(k *identity.Keys) bool { return file(1, true)(k.Status()[1]) })
	if got := all(keys); !strings.Contains(got, "identity.api_keys.file: the file cannot be read") || !strings.Contains(got, path) {
		t.Errorf("degraded: %q", got)
	}
	if got := outcome(t, r.v, keys, apiKey(k)); got != "ok" {
		t.Errorf("the last good keys: %s", got)
	}
	if err := r.v.Ready(keys); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if err := os.Remove(jwksPath); err != nil {
		t.Fatal(err)
	}
	keys = r.keysWhere("the issuer's file gone", func(k *identity.Keys) bool { return file(4, true)(k.Status()[0]) })
	if got := r.v.Degraded(keys); len(got) != 2 || !strings.Contains(got[0], `keys of issuer "https://a.example": the file cannot be read`) {
		t.Errorf("degraded: %q", got)
	}
	writeFile(t, path, string(text))
	writeFile(t, jwksPath, keysOfA())
	keys = r.keysWhere("both again", func(k *identity.Keys) bool { return file(4, false)(k.Status()[0]) && file(1, false)(k.Status()[1]) })
	if got := all(keys); got != "" {
		t.Errorf("degraded in the end: %s", got)
	}
}

// Keys that nothing tells apart are said to be left out.
func TestUnclearKeysAreDegraded(t *testing.T) {
	r := keyRing()
	v := newVerifier(t, oneIssuer(identity.KeySource{File: temp(t, jwks(jwk(&r.rsa.PublicKey, object{"kid": "a"}), jwk(&r.rsaOther.PublicKey, object{"kid": "a"}),
		jwk(r.ed.Public(), object{"kid": "b"})))}))
	keys := load(t, v)
	if got := v.Degraded(keys); len(got) != 2 || !strings.Contains(got[0], `key 1 ("a") is left out`) || !strings.Contains(got[1], `key 2 ("a") is left out`) {
		t.Errorf("degraded: %q", got)
	}
}

func TestSubjectClaim(t *testing.T) {
	for name, tt := range map[string]struct {
		claims identity.ClaimPaths
		token  object
		want   string
	}{
		"default":                       {identity.ClaimPaths{}, object{"oid": "o"}, subject},
		"named":                         {identity.ClaimPaths{Subject: "oid"}, object{"oid": "o"}, "o"},
		"named, without sub":            {identity.ClaimPaths{Subject: "oid"}, object{"oid": "o", "sub": nil}, "o"},
		"within":                        {identity.ClaimPaths{Subject: "user.name"}, object{"user": object{"name": "vera"}}, "vera"},
		"a url":                         {identity.ClaimPaths{Subject: "*/uid"}, object{"https://a.example/uid": "u"}, "u"},
		"the first that is there":       {identity.ClaimPaths{Subject: "oid preferred_username sub"}, object{"preferred_username": "vera"}, "vera"},
		"missing":                       {identity.ClaimPaths{Subject: "oid"}, nil, "bad"},
		"null":                          {identity.ClaimPaths{Subject: "oid"}, object{"oid": nil}, "bad"},
		"empty":                         {identity.ClaimPaths{Subject: "oid"}, object{"oid": ""}, "bad"},
		"a number":                      {identity.ClaimPaths{Subject: "oid"}, object{"oid": 7}, "bad"},
		"a list":                        {identity.ClaimPaths{Subject: "oid"}, object{"oid": []string{"o"}}, "bad"},
		"of the wrong type before good": {identity.ClaimPaths{Subject: "oid sub"}, object{"oid": 7}, "bad"},
		"a line break":                  {identity.ClaimPaths{Subject: "oid"}, object{"oid": "a\nb"}, "bad"},
		"an address, verified":          {identity.ClaimPaths{Subject: "email"}, object{"email": "v@a.example", "email_verified": true}, "v@a.example"},
		"an address, not verified":      {identity.ClaimPaths{Subject: "email"}, object{"email": "v@a.example"}, "bad"},
		"an address, said to be":        {identity.ClaimPaths{Subject: "email"}, object{"email": "v@a.example", "email_verified": "true"}, "bad"},
		"an address, believed":          {identity.ClaimPaths{Subject: "email", UnverifiedEmail: true}, object{"email": "v@a.example"}, "v@a.example"},
	} {
		c := oneIssuer(identity.KeySource{File: temp(t, keysOfA())})
		c.Issuers[0].Claims = tt.claims
		v := newVerifier(t, c)
		id, err := v.Identify(t.Context(), load(t, v), identity.Request{Header: bearer(good(tt.token)).get})
		got := id.Subject
		if errors.Is(err, identity.ErrBadCredential) {
			got = "bad"
		}
		if got != tt.want || err == nil && id.Identity != tt.want {
			t.Errorf("%s: %q %v, want %q", name, got, err, tt.want)
		}
	}
}

func TestTokenAmongWebsocketProtocols(t *testing.T) {
	c := oneIssuer(identity.KeySource{File: temp(t, keysOfA())})
	c.Issuers[0].From = []identity.TokenSource{{WebsocketProtocol: "bearer"}, {Header: "authorization"}}
	v := newVerifier(t, c)
	keys := load(t, v)
	g, other := good(nil), good(object{"sub": "other"})
	for sent, want := range map[string]string{
		"":                         "",
		"bearer, G":                subject,
		"bearer,G":                 subject,
		"Bearer ,\tG":              subject,
		"graphql-ws, bearer, G, x": subject,
		"graphql-ws":               "",
		"G":                        "",
		"G, bearer":                "bad",
		"bearer":                   "bad",
		"bearer,":                  "bad",
		"bearer, , G":              "bad",
		"bearer, bearer, G":        "bad",
		"bearer, G, bearer, G":     "bad",
		"bearer, G, bearer, O":     "bad",
		"bearer, \"G\"":            "bad",
		"bearer, x":                "bad",
		"bearer\n, G":              "",
		"bearer, graphql-ws, G":    "bad",
		"bearer G":                 "",
		"bearer, G|second, x":      subject,
		"bearer|G":                 subject, // over two lines
		"bearer, G|bearer, G":      "bad",
	} {
		sent = strings.NewReplacer("G", g, "O", other).Replace(sent)
		if got := identified(t, v, keys, headers{"sec-websocket-protocol": strings.Split(sent, "|")}); got != want {
			t.Errorf("%.40q: %q, want %q", sent, got, want)
		}
	}
	both := bearer(other)
	both["sec-websocket-protocol"] = []string{"bearer, " + g}
	if got := identified(t, v, keys, both); got != "bad" {
		t.Errorf("two tokens: %q", got)
	}
}

// identified is the subject of a request, or "bad".
func identified(t *testing.T, v *identity.Verifier, keys *identity.Keys, h headers) string {
	t.Helper()
	id, err := v.Identify(t.Context(), keys, identity.Request{Header: h.get})
	switch {
	case errors.Is(err, identity.ErrBadCredential):
		return "bad"
	case err != nil:
		t.Fatal(err)
	}
	return id.Subject
}

func TestPlacesSayWhatIsWrong(t *testing.T) {
	for want, from := range map[string][]identity.TokenSource{
		"chunked: is for a cookie":      {{Header: "x-token", Chunked: true}},
		"exactly one of":                {{WebsocketProtocol: "bearer", Cookie: "a"}},
		"is not the name of a protocol": {{WebsocketProtocol: "bear er"}},
		`cookie "a" is listed twice`:    {{Cookie: "a", Chunked: true}, {Cookie: "a"}},
		`cookie "a_3" is listed twice`:  {{Cookie: "a", Chunked: true}, {Cookie: "a_3"}},
		"a scheme belongs to a header":  {{WebsocketProtocol: "a", Scheme: "b"}},
	} {
		c := oneIssuer(identity.KeySource{File: temp(t, keysOfA())})
		c.Issuers[0].From = from
		if _, err := identity.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", from, err, want)
		}
	}
}

// keysWhere waits for published keys that please.
func (r *running) keysWhere(what string, pleases func(*identity.Keys) bool) *identity.Keys {
	r.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case keys := <-r.published:
			if pleases(keys) {
				return keys
			}
		case <-timeout:
			r.t.Fatalf("nothing published: %s\n%s", what, r.log)
		}
	}
}
