package identity_test

import (
	"context"
	"crypto"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"gatehouse/identity"
)

func benchIdentify(b *testing.B, cacheBytes int64, h headers, want string) {
	c := twoIssuers(b)
	c.CacheBytes = cacheBytes
	v := newVerifier(b, c)
	keys := load(b, v)
	if got := outcome(b, v, keys, h); !strings.HasSuffix(got, want) {
		b.Fatal(got)
	}
	get, ctx := h.get, context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = v.Identify(ctx, keys, identity.Request{Header: get})
	}
}

type benchToken struct {
	alg     string
	token   string
	private any
	public  crypto.PublicKey
}

func benchTokens() []benchToken {
	r := keyRing()
	changes := object{"realm_access": object{"roles": []string{"viewer", "editor"}}, "scope": "openid profile orders:read", "email": "a@b.example", "jti": strings.Repeat("j", 36)}
	all := []benchToken{
		{"RS256", "r1", r.rsa, &r.rsa.PublicKey},
		{"ES256", "e1", r.p256, &r.p256.PublicKey},
		{"EdDSA", "d1", r.ed, r.ed.Public()},
	}
	for i, t := range all {
		all[i].token = mint(t.alg, t.private, object{"alg": t.alg, "kid": t.token, "typ": "JWT"}, claims(changes))
	}
	return all
}

// BenchmarkVerify is a token's first sight, next to golang-jwt alone doing the same checks without the strictness.
func BenchmarkVerify(b *testing.B) {
	for _, t := range benchTokens() {
		b.Run(t.alg, func(b *testing.B) { benchIdentify(b, -1, bearer(t.token), "ok") })
		b.Run(t.alg+"/golang-jwt", func(b *testing.B) {
			parser := jwt.NewParser(jwt.WithValidMethods([]string{t.alg}), jwt.WithIssuer(issuerA), jwt.WithAudience("orders"),
				jwt.WithExpirationRequired(), jwt.WithJSONNumber(), jwt.WithTimeFunc(func() time.Time { return noon }))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parser.Parse(t.token, func(*jwt.Token) (any, error) { return t.public, nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCacheHit(b *testing.B) {
	for _, t := range benchTokens() {
		b.Run(t.alg, func(b *testing.B) { benchIdentify(b, 0, bearer(t.token), "ok") })
	}
}

func BenchmarkAnonymous(b *testing.B) { benchIdentify(b, 0, headers{}, "anonymous") }

// BenchmarkForged is a flood of one bad token, and what each would cost if it were not remembered.
func BenchmarkForged(b *testing.B) {
	r := keyRing()
	for _, c := range []struct {
		name  string
		token string
		want  string
	}{
		{"RS256", mint("RS256", r.rsaOther, object{"alg": "RS256", "kid": "r1"}, claims(nil)), "signature does not verify"},
		{"ES256", mint("ES256", suite().Keys.P256Other, object{"alg": "ES256", "kid": "e1"}, claims(nil)), "signature does not verify"},
		{"expired", good(object{"exp": at(-time.Hour)}), "token expired"},
		{"16KiB", good(object{"aud": "x", "x": make([]int, 5000)}), "audience does not match"},
	} {
		b.Run(c.name, func(b *testing.B) { benchIdentify(b, 0, bearer(c.token), c.want) })
		b.Run(c.name+"/uncached", func(b *testing.B) { benchIdentify(b, -1, bearer(c.token), c.want) })
	}
}
