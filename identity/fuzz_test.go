package identity_test

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"

	"github.com/golang-jwt/jwt/v5"
)

// FuzzIdentify holds us to golang-jwt in one direction: what we accept, it accepts too, with the same claims. It is tried with
// the text as a token, and with header and claims signed by a good key, so that the fuzzer gets past the signature.
func FuzzIdentify(f *testing.F) {
	for _, c := range suite().Cases {
		for _, line := range c.Headers {
			token := strings.TrimPrefix(line[1], "Bearer ")
			if len(token) > 4096 {
				continue
			}
			parts := strings.Split(token, ".")
			if len(parts) != 3 {
				f.Add(token, "", "")
				continue
			}
			header, _ := jwt.NewParser().DecodeSegment(parts[0])
			body, _ := jwt.NewParser().DecodeSegment(parts[1])
			f.Add(token, string(header), string(body))
			f.Add("", `{"alg":"ES256","kid":"e1"}`, string(body))
		}
	}
	f.Add("", `{"alg":"ES256","kid":"e1"}`, toJSON(claims(nil)))
	c := twoIssuers(f)
	c.Issuers[0].From = []identity.TokenSource{{Header: "x-token"}}
	c.CacheBytes = -1
	v := newVerifier(f, c)
	keys := load(f, v)
	f.Fuzz(func(t *testing.T, token, header, body string) {
		compareWithOracle(t, v, keys, token)
		compareWithOracle(t, v, keys, mint("ES256", keyRing().p256, header, body))
	})
}

func compareWithOracle(t *testing.T, v *identity.Verifier, keys *identity.Keys, token string) {
	id, err := v.Identify(context.Background(), keys, identity.Request{Header: headers{"x-token": {token}}.get})
	if err != nil {
		if errors.Is(err, identity.ErrBadCredential) == errors.Is(err, identity.ErrUnavailable) {
			t.Fatalf("not one of the two errors: %v", err)
		}
		return
	}
	if !id.Authenticated {
		return
	}
	oracle := jwt.NewParser(jwt.WithValidMethods([]string{"RS256", "PS256", "ES256", "ES384", "EdDSA"}), jwt.WithIssuer(id.Issuer),
		jwt.WithAudience("orders", "stock"), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(30*time.Second),
		jwt.WithTimeFunc(func() time.Time { return noon }), jwt.WithStrictDecoding(), jwt.WithJSONNumber())
	want := jwt.MapClaims{}
	_, err = oracle.ParseWithClaims(strings.Trim(token, " \t"), want, oracleKey)
	if err != nil {
		t.Fatalf("accepted, but golang-jwt says %v: %s", err, token)
	}
	if !reflect.DeepEqual(map[string]any(want), id.Claims) || want["sub"] != id.Subject {
		t.Fatalf("other claims than golang-jwt's: %s", token)
	}
}

func oracleKey(token *jwt.Token) (any, error) {
	r := keyRing()
	if token.Claims.(jwt.MapClaims)["iss"] == issuerB {
		return &r.rsaOther.PublicKey, nil
	}
	public := map[string]crypto.PublicKey{
		"RS256": &r.rsa.PublicKey, "PS256": &r.rsa.PublicKey, "ES256": &r.p256.PublicKey, "ES384": &r.p384.PublicKey, "EdDSA": r.ed.Public(),
	}
	return public[token.Method.Alg()], nil
}

// FuzzKeySet reads arbitrary files: it must end in an error of one line or in usable keys, and the strict reader must not
// accept what encoding/json does not.
func FuzzKeySet(f *testing.F) {
	f.Add([]byte(keysOfA()))
	f.Add([]byte(pemOf("PUBLIC KEY", &keyRing().rsa.PublicKey)))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"}]}`))
	f.Add([]byte("{\"keys\":\n[{\"kty\":\"RSA\",\"kty\":1}]}"))
	path := filepath.Join(f.TempDir(), "jwks.json")
	v := newVerifier(f, oneIssuer(identity.KeySource{File: path}))
	f.Fuzz(func(t *testing.T, file []byte) {
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := v.Load(context.Background())
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("several lines: %v", err)
			}
			return
		}
		if s := keys.Status()[0]; s.Keys < 1 || !s.Loaded {
			t.Fatalf("no error and no keys: %+v", s)
		}
		if !strings.Contains(string(file), "-----BEGIN ") && !json.Valid(file) {
			t.Fatalf("accepted what is not json")
		}
	})
}

// FuzzQuery holds that a token is accepted from a query only where net/url finds that one token in it, also when semicolons
// separate.
func FuzzQuery(f *testing.F) {
	s := suite()
	good := ""
	for _, c := range s.Cases {
		if c.Query != "" && len(c.Query) < 4096 {
			f.Add(c.Query)
		}
		if c.Name == "issuer D" {
			good = strings.TrimPrefix(c.Values("authorization")[0], "Bearer ")
		}
	}
	for _, query := range []string{"access_token=TOKEN", "a=1&access%5Ftoken=TOKEN&b", "access_token=TOKEN;x=1", "x=%3Baccess_token=1&access_token=TOKEN"} {
		f.Add(query)
	}
	dir := f.TempDir()
	if err := s.WriteKeys(dir); err != nil {
		f.Fatal(err)
	}
	v := newVerifier(f, s.Config(dir))
	keys := load(f, v)
	f.Fuzz(func(t *testing.T, query string) {
		query = strings.ReplaceAll(query, "TOKEN", good) // which the fuzzer would never find
		id, err := v.Identify(context.Background(), keys, identity.Request{Header: headers{}.get, Query: query})
		if err != nil || !id.Authenticated {
			return
		}
		values, _ := url.ParseQuery(strings.ReplaceAll(query, ";", "&"))
		tokens := values["access_token"]
		if len(tokens) != 1 || outcome(t, v, keys, bearer(tokens[0])) != "ok" {
			t.Fatalf("accepted, but net/url finds %d tokens in %q", len(tokens), query)
		}
	})
}
