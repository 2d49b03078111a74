package identity_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"
)

// openID is a provider with metadata. BASE in a document is the server's address.
type openID struct {
	*provider
	t *testing.T
}

// serveMetadata serves documents by their path, 500 for an empty one, and 404 elsewhere.
func serveMetadata(t *testing.T, documents map[string]string) *openID {
	p := serveKeys(t, "")
	p.handle(func(w http.ResponseWriter, req *http.Request) {
		text, ok := documents[req.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if text == "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = w.Write([]byte(strings.ReplaceAll(text, "BASE", "http://"+req.Host)))
	})
	return &openID{p, t}
}

// discovering is a config whose one issuer is at a path of the provider.
func (p *openID) discovering(path string) identity.Config {
	c := oneIssuer(identity.KeySource{Discovery: true, Refresh: time.Second})
	c.Issuers[0].Issuer = p.URL + path
	return c
}

func TestDiscovery(t *testing.T) {
	const openid, oauth = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"
	cases := []struct {
		name, path string
		documents  map[string]string
		want       string
	}{
		{"at the root", "", map[string]string{openid: `{"issuer":"BASE","jwks_uri":"BASE/keys"}`}, ""},
		{"slash at the end", "/", map[string]string{openid: `{"issuer":"BASE/","jwks_uri":"BASE/keys"}`}, ""},
		{"path", "/realms/a", map[string]string{"/realms/a" + openid: `{"issuer":"BASE/realms/a","jwks_uri":"BASE/keys"}`}, ""},
		{"OAuth, at the root", "", map[string]string{oauth: `{"issuer":"BASE","jwks_uri":"BASE/keys"}`}, ""},
		{"OAuth, path", "/a/", map[string]string{oauth + "/a": `{"issuer":"BASE/a/","jwks_uri":"BASE/keys"}`}, ""},
		{"OpenID comes first", "", map[string]string{openid: `{"issuer":"BASE","jwks_uri":"BASE/keys"}`, oauth: `{}`}, ""},
		{"query of the keys", "", map[string]string{openid: `{"issuer":"BASE","jwks_uri":"BASE/keys?p=hidden"}`}, ""},

		{"none", "/a", nil, "/a" + openid + ": status 404; fetching BASE" + oauth + "/a: status 404"},
		{"broken is not asked elsewhere", "", map[string]string{openid: `{`, oauth: `{"issuer":"BASE","jwks_uri":"BASE/keys"}`}, openid + ": is not valid json"},
		{"an error is final", "", map[string]string{openid: "", oauth: `{"issuer":"BASE","jwks_uri":"BASE/keys"}`}, openid + ": status 500"},
		{"other issuer", "", map[string]string{openid: `{"issuer":"https://evil.example","jwks_uri":"BASE/keys"}`}, `names the issuer "https://evil.example"; "BASE" is configured`},
		{"a slash more", "", map[string]string{openid: `{"issuer":"BASE/","jwks_uri":"BASE/keys"}`}, `names the issuer "BASE/"; "BASE" is configured`},
		{"a slash less", "/", map[string]string{openid: `{"issuer":"BASE","jwks_uri":"BASE/keys"}`}, `names the issuer "BASE"; "BASE/" is configured`},
		{"no issuer", "", map[string]string{openid: `{"jwks_uri":"BASE/keys"}`}, `"issuer" is missing`},
		{"issuer twice", "", map[string]string{openid: `{"issuer":"https://evil.example","issuer":"BASE","jwks_uri":"BASE/keys"}`}, "has a json key twice"},
		{"no keys", "", map[string]string{openid: `{"issuer":"BASE"}`}, `"jwks_uri" is missing`},
		{"keys over http", "", map[string]string{openid: `{"issuer":"BASE","jwks_uri":"http://keys.example/keys"}`}, `jwks_uri: "http://keys.example/keys" must be https`},
		{"keys in a file", "", map[string]string{openid: `{"issuer":"BASE","jwks_uri":"file:///etc/passwd"}`}, "jwks_uri: \"file:///etc/passwd\" must have a host"},
		{"keys with a password", "", map[string]string{openid: `{"issuer":"BASE","jwks_uri":"https://a:hidden@b/keys"}`}, "must not hold a user"},
		{"keys with a long url", "", map[string]string{openid: `{"issuer":"BASE","jwks_uri":"https://b/` + strings.Repeat("x", 3000) + `"}`}, "longer than 2048 bytes"},
		{"keys missing there", "", map[string]string{openid: `{"issuer":"BASE","jwks_uri":"BASE/none"}`}, "fetching BASE/none: status 404"},
		{"too long", "", map[string]string{openid: strings.Repeat(" ", 1<<20) + `{"issuer":"BASE","jwks_uri":"BASE/keys"}`}, "more than 1048576 bytes"},
	}
	for _, c := range cases {
		documents := map[string]string{"/keys": keysOfA()}
		for path, text := range c.documents {
			documents[path] = text
		}
		p := serveMetadata(t, documents)
		v := newVerifier(t, p.discovering(c.path))
		keys := load(t, v)
		s := keys.Status()[0]
		want := strings.ReplaceAll(c.want, "BASE", p.URL)
		if !strings.Contains(s.Error, want) || (s.Error == "") != (want == "") || strings.Contains(s.Error, "hidden") {
			t.Errorf("%s: got %q, want %q", c.name, s.Error, want)
		}
		if want == "" {
			if got := outcome(t, v, keys, bearer(good(object{"iss": p.URL + c.path}))); got != "ok" {
				t.Errorf("%s: the token is %q", c.name, got)
			}
		}
		if s.Source != strings.TrimSuffix(p.URL+c.path, "/")+openid {
			t.Errorf("%s: source %q", c.name, s.Source)
		}
	}
}

// TestDiscoveryNamesAnotherHost takes the keys from where the metadata says, and follows no redirect away from either host.
func TestDiscoveryNamesAnotherHost(t *testing.T) {
	elsewhere := serveKeys(t, keysOfA())
	p := serveMetadata(t, map[string]string{"/.well-known/openid-configuration": `{"issuer":"BASE","jwks_uri":"` + elsewhere.URL + `/v3/certs"}`})
	v := newVerifier(t, p.discovering(""))
	if got := outcome(t, v, load(t, v), bearer(good(object{"iss": p.URL}))); got != "ok" {
		t.Errorf("got %q", got)
	}
	third := serveKeys(t, keysOfA())
	elsewhere.handle(func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, third.URL, http.StatusFound) })
	if s := load(t, v).Status()[0]; !strings.Contains(s.Error, "redirect to another host") {
		t.Errorf("keys redirected: %+v", s)
	}
	p.handle(func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, third.URL, http.StatusFound) })
	if s := load(t, v).Status()[0]; !strings.Contains(s.Error, "redirect to another host") {
		t.Errorf("metadata redirected: %+v", s)
	}
	if third.fetches.Load() != 0 {
		t.Error("a host was asked that nobody named")
	}
}

// TestDiscoveryDoesNotLeadToThisMachine keeps an issuer out there from aiming us at what listens on loopback.
func TestDiscoveryDoesNotLeadToThisMachine(t *testing.T) {
	inside := serveKeys(t, keysOfA())
	outside := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":"https://example.com","jwks_uri":%q}`, inside.URL)
	}))
	defer outside.Close()
	c := oneIssuer(identity.KeySource{Discovery: true})
	c.Issuers[0].Issuer, c.Client = "https://example.com", outside.Client() // which dials the server for this name
	v := newVerifier(t, c)
	if s := load(t, v).Status()[0]; !strings.Contains(s.Error, "is on this machine and the issuer is not") {
		t.Errorf("got %+v", s)
	}
	if inside.fetches.Load() != 0 {
		t.Error("it was asked")
	}
}

// TestDiscoveryFollowsKeysThatMove reads the metadata again with every refresh, and a broken one takes nothing away.
func TestDiscoveryFollowsKeysThatMove(t *testing.T) {
	const path = "/.well-known/openid-configuration"
	p := serveMetadata(t, map[string]string{path: `{"issuer":"BASE","jwks_uri":"BASE/old"}`, "/old": oldSet()})
	r := run(t, p.discovering(""))
	token := good(object{"iss": p.URL})
	r.decides(r.next("the first set", isGood), token, "ok")
	p.handle(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"issuer":"https://evil.example","jwks_uri":"` + p.URL + `/new"}`))
	})
	r.decides(r.next("the broken metadata", isBroken), token, "ok")
	p.handle(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/new" {
			_, _ = w.Write([]byte(newSet()))
			return
		}
		_, _ = w.Write([]byte(`{"issuer":"` + p.URL + `","jwks_uri":"` + p.URL + `/new"}`))
	})
	r.decides(r.next("the moved set", isGood), token, noSignature)
}

// FuzzMetadata holds that no document makes us take keys for an issuer that it does not name.
func FuzzMetadata(f *testing.F) {
	var document string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/keys" {
			_, _ = w.Write([]byte(keysOfA()))
			return
		}
		_, _ = w.Write([]byte(strings.ReplaceAll(document, "BASE", "http://"+req.Host)))
	}))
	defer server.Close()
	f.Add(`{"issuer":"BASE","jwks_uri":"BASE/keys"}`)
	f.Add(`{"issuer":"BASE/","jwks_uri":"BASE/keys"}`)
	f.Add(`{"issuer":null,"jwks_uri":[]}`)
	c := oneIssuer(identity.KeySource{Discovery: true})
	c.Issuers[0].Issuer = server.URL
	c.Client = &http.Client{Transport: onlyTo(server.Listener.Addr().String())}
	v, err := identity.New(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		document = text
		keys, err := v.Load(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var metadata map[string]any
		if keys.Status()[0].Loaded && (json.Unmarshal([]byte(strings.ReplaceAll(text, "BASE", server.URL)), &metadata) != nil || metadata["issuer"] != server.URL) {
			t.Errorf("keys for an issuer that is not named by %q", text)
		}
	})
}

// onlyTo refuses requests to other hosts, so that a fuzzer asks nobody out there.
type onlyTo string

func (host onlyTo) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != string(host) {
		return nil, fmt.Errorf("a request to %s", req.URL.Host)
	}
	return http.DefaultTransport.RoundTrip(req)
}
