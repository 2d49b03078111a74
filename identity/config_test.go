package identity_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"

	"github.com/google/go-cmp/cmp"
)

func TestNewReportsEveryProblemAtOnce(t *testing.T) {
	good := identity.Issuer{Issuer: "https://good", Audiences: []string{"a"}, Keys: identity.KeySource{File: "k.json"}}
	with := func(change func(*identity.Issuer)) identity.Issuer {
		iss := good
		iss.Issuer = "https://bad"
		change(&iss)
		return iss
	}
	cases := []struct {
		want   string
		issuer identity.Issuer
	}{
		{`Issuers[1].Issuer: must be`, with(func(i *identity.Issuer) { i.Issuer = "" })},
		{`Issuers[1].Issuer: is listed twice`, good},
		{`Issuers[1].Audiences: at least one`, with(func(i *identity.Issuer) { i.Audiences = nil })},
		{`Audiences: an empty entry`, with(func(i *identity.Issuer) { i.Audiences = []string{"a", ""} })},
		{`ClientIDs: an empty entry`, with(func(i *identity.Issuer) { i.Audiences, i.ClientIDs = nil, []string{""} })},
		{`Parties: an empty entry`, with(func(i *identity.Issuer) { i.Parties = []string{"a", ""} })},
		{`Type: "at jwt" is not a token's typ`, with(func(i *identity.Issuer) { i.Type = "at jwt" })},
		{`TokenUse: "a\n" is not plain text`, with(func(i *identity.Issuer) { i.TokenUse = "a\n" })},
		{`MaxAge: "-1s" is not a whole number`, with(func(i *identity.Issuer) { i.MaxAge = -time.Second })},
		{`MaxAge: "1.5s" is not a whole number`, with(func(i *identity.Issuer) { i.MaxAge = 1500 * time.Millisecond })},
		{`Require: "" is not the name of a claim`, with(func(i *identity.Issuer) { i.Require = map[string][]string{"": nil} })},
		{`Require: "a." is not the name of a claim`, with(func(i *identity.Issuer) { i.Require = map[string][]string{"b a.": nil} })},
		{`Claims.Roles: "*/" is not the name`, with(func(i *identity.Issuer) { i.Claims.Roles = "*/" })},
		{`Claims.Email: "\x00" is not the name`, with(func(i *identity.Issuer) { i.Claims.Email = "\x00" })},
		{`Algorithms: "HS256" is symmetric`, with(func(i *identity.Issuer) { i.Algorithms = []string{"RS256", "HS256"} })},
		{`Algorithms: "None" would accept unsigned`, with(func(i *identity.Issuer) { i.Algorithms = []string{"None"} })},
		{`Algorithms: "ES512" is none of`, with(func(i *identity.Issuer) { i.Algorithms = []string{"ES512"} })},
		{`Keys: exactly one of file, url and discovery`, with(func(i *identity.Issuer) { i.Keys = identity.KeySource{} })},
		{`Keys: exactly one of file, url and discovery`, with(func(i *identity.Issuer) { i.Keys.URL = "https://x/keys" })},
		{`Keys: exactly one of file, url and discovery`, with(func(i *identity.Issuer) { i.Keys.Discovery = true })},
		{`Keys.MaxStale: is for a url`, with(func(i *identity.Issuer) { i.Keys.MaxStale = time.Hour })},
		{`Keys.MaxStale: "9m0s" is not between 10m0s`, with(func(i *identity.Issuer) {
			i.Keys = identity.KeySource{URL: "https://x/keys", MaxStale: 9 * time.Minute}
		})},
		{`Keys.MaxStale: "721h0m0s" is not between`, with(func(i *identity.Issuer) {
			i.Keys = identity.KeySource{URL: "https://x/keys", MaxStale: 721 * time.Hour}
		})},
		{`Keys.Discovery: the issuer "urn:x" must have a host`, with(func(i *identity.Issuer) { i.Issuer, i.Keys = "urn:x", identity.KeySource{Discovery: true} })},
		{`Keys.Discovery: the issuer "http://x" must be https`, with(func(i *identity.Issuer) { i.Issuer, i.Keys = "http://x", identity.KeySource{Discovery: true} })},
		{`Keys.Discovery: the issuer must have no query`, with(func(i *identity.Issuer) { i.Issuer, i.Keys = "https://x?", identity.KeySource{Discovery: true} })},
		{`Keys.Refresh: is for a url`, with(func(i *identity.Issuer) { i.Keys.Refresh = time.Minute })},
		{`Keys.Refresh: "10ms" is not between`, with(func(i *identity.Issuer) {
			i.Keys = identity.KeySource{URL: "https://x/keys", Refresh: 10 * time.Millisecond}
		})},
		{`Keys.URL: "http://x/keys" must be https`, with(func(i *identity.Issuer) { i.Keys = identity.KeySource{URL: "http://x/keys"} })},
		{`Keys.URL: "http://127.0.0.1.x/keys" must be https`, with(func(i *identity.Issuer) { i.Keys = identity.KeySource{URL: "http://127.0.0.1.x/keys"} })},
		{`Keys.URL: "file:///etc/keys" must have a host`, with(func(i *identity.Issuer) { i.Keys = identity.KeySource{URL: "file:///etc/keys"} })},
		{`Keys.URL: must not hold a user`, with(func(i *identity.Issuer) { i.Keys = identity.KeySource{URL: "https://u:hunter2@x/keys"} })},
		{`Keys.URL: is not a valid url`, with(func(i *identity.Issuer) { i.Keys = identity.KeySource{URL: "https://u:hunter2@x/%zz"} })},
		{`ClockSkew: "6m0s" is not between 0s and 5m0s`, with(func(i *identity.Issuer) { i.ClockSkew = 6 * time.Minute })},
		{`From: exactly one of header, cookie and query`, with(func(i *identity.Issuer) { i.From = []identity.TokenSource{{}} })},
		{`From: exactly one of header, cookie and query`, with(func(i *identity.Issuer) { i.From = []identity.TokenSource{{Cookie: "a", Query: "a"}} })},
		{`From: "q": a scheme belongs`, with(func(i *identity.Issuer) { i.From = []identity.TokenSource{{Query: "q", Scheme: "b"}} })},
		{`From: query "a=b" may have`, with(func(i *identity.Issuer) { i.From = []identity.TokenSource{{Query: "a=b"}} })},
		{`From: "a": a scheme belongs`, with(func(i *identity.Issuer) { i.From = []identity.TokenSource{{Cookie: "a", Scheme: "b"}} })},
		{`From: cookie "a b" is not a cookie name`, with(func(i *identity.Issuer) { i.From = []identity.TokenSource{{Cookie: "a b"}} })},
		{`From: header "cookie" is not a header`, with(func(i *identity.Issuer) { i.From = []identity.TokenSource{{Header: "Cookie"}} })},
		{`From: header ":path" is not a header`, with(func(i *identity.Issuer) { i.From = []identity.TokenSource{{Header: ":path"}} })},
		{`From: scheme "a b" is not`, with(func(i *identity.Issuer) { i.From = []identity.TokenSource{{Header: "x", Scheme: "a b"}} })},
		{`From: header "x" is listed with a scheme and without`, with(func(i *identity.Issuer) {
			i.From = []identity.TokenSource{{Header: "x", Scheme: "b"}, {Header: "X"}}
		})},
	}
	all := identity.Config{Issuers: []identity.Issuer{good}}
	for _, c := range cases {
		_, err := identity.New(identity.Config{Issuers: []identity.Issuer{good, c.issuer}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a password in %v", err)
		}
		all.Issuers = append(all.Issuers, c.issuer)
	}
	_, err := identity.New(all)
	if got := strings.Count(fmt.Sprint(err), "\n") + 1; got < len(cases) {
		t.Errorf("%d problems reported, want at least %d", got, len(cases))
	}
	if v, err := identity.New(identity.Config{Issuers: []identity.Issuer{good}}); err != nil || !v.Configured() {
		t.Errorf("the good issuer alone: %v", err)
	}
}

func TestNoIssuers(t *testing.T) {
	v := newVerifier(t, identity.Config{})
	if v.Configured() {
		t.Error("configured without issuers")
	}
	if got := outcome(t, v, nil, bearer(good(nil))); got != "anonymous" {
		t.Errorf("got %q", got)
	}
}

func TestMappedClaims(t *testing.T) {
	c := twoIssuers(t)
	c.Issuers[0].Claims = identity.ClaimPaths{Roles: "resource_access.orders.roles", Groups: "https://a.example/groups", Scopes: "scp"}
	v := newVerifier(t, c)
	keys := load(t, v)
	cases := []struct {
		name                  string
		claims                object
		roles, groups, scopes []string
	}{
		{"none", nil, nil, nil, nil},
		{"all", object{
			"resource_access":          object{"orders": object{"roles": []string{"viewer", "admin"}}},
			"https://a.example/groups": []string{"/eu"},
			"scp":                      "read  write",
		}, []string{"viewer", "admin"}, []string{"/eu"}, []string{"read", "write"}},
		{"single values and a list of scopes", object{
			"resource_access.orders": object{"roles": "viewer"}, "https://a.example/groups": "eu", "scp": []string{"a b", "c"},
		}, []string{"viewer"}, []string{"eu"}, []string{"a b", "c"}},
		{"path ends early", object{"resource_access": object{"orders": "x"}}, nil, nil, nil},
		{"default names are not looked at", object{"roles": "admin", "groups": "x", "scope": "y"}, nil, nil, nil},
	}
	for _, want := range cases {
		id, err := v.Identify(context.Background(), keys, identity.Request{Header: bearer(good(want.claims)).get})
		if err != nil {
			t.Errorf("%s: %v", want.name, err)
			continue
		}
		if diff := cmp.Diff([][]string{want.roles, want.groups, want.scopes}, [][]string{id.Roles, id.Groups, id.Scopes}); diff != "" {
			t.Errorf("%s: %s", want.name, diff)
		}
		if id.Type != identity.TypeJWT || id.Identity != subject || id.Subject != subject || id.Issuer != issuerA ||
			!id.Authenticated || !id.Expires.Equal(noon.Add(time.Hour)) || fmt.Sprint(id.Claims["exp"]) != fmt.Sprint(at(time.Hour)) {
			t.Errorf("%s: fields do not fit", want.name)
		}
		refusesToLeak(t, fmt.Sprintf("%v %+v %#v %s %q %x", id, id, id, id, id, id))
		refusesToLeak(t, toJSON(id))
	}
}

// TestSeveralPaths reads more than one claim into one list, and finds a claim whose name a tenant chose.
func TestSeveralPaths(t *testing.T) {
	c := twoIssuers(t)
	c.Issuers[0].Claims = identity.ClaimPaths{Roles: "permissions */roles", Scopes: "scp scope", Email: "mail email"}
	v := newVerifier(t, c)
	keys := load(t, v)
	const ours, theirs = "https://a.example/roles", "http://b.example/x/roles"
	cases := []struct {
		name   string
		claims object
		want   string
	}{
		{"none", nil, "[] [] "},
		{"each", object{"permissions": []string{"read"}, ours: []string{"admin"}, "scp": []string{"a"}, "scope": "b c", "email_verified": true,
			"email": "e@x", "mail": "m@x"}, "[read admin] [a b c] m@x"},
		{"the second path", object{ours: "admin", "email": "e@x", "email_verified": true}, "[admin] [] e@x"},
		{"null is nothing", object{"permissions": []any(nil), ours: "admin", "mail": []string(nil)}, "[admin] [] "},
		{"no url", object{"a/roles": "x", "ftp://a/roles": "x", "https://a.example/myroles": "x"}, "[] [] "},
		{"two such names", object{ours: "a", theirs: "b"}, "bad credential: roles claim is not a string or list of strings"},
		{"one of the wrong type", object{"permissions": "a", ours: 7}, "bad credential: roles claim is not a string or list of strings"},
		{"the first e-mail address of the wrong type", object{"mail": 7, "email": "e@x"}, "bad credential: e-mail claim is not a plain string"},
	}
	for _, c := range cases {
		id, err := v.Identify(context.Background(), keys, identity.Request{Header: bearer(good(c.claims)).get})
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%v %v %s", id.Roles, id.Scopes, id.Email)
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestUnavailable(t *testing.T) {
	c := twoIssuers(t)
	v := newVerifier(t, c)
	other := load(t, newVerifier(t, c))
	for name, keys := range map[string]*identity.Keys{"nil keys": nil, "keys of another verifier": other} {
		_, err := v.Identify(context.Background(), keys, identity.Request{Header: bearer(good(nil)).get})
		if !errors.Is(err, identity.ErrUnavailable) || errors.Is(err, identity.ErrBadCredential) {
			t.Errorf("%s: got %v", name, err)
		}
		_, err = v.Identify(context.Background(), keys, identity.Request{Header: bearer(good(object{"iss": "x"})).get})
		if !errors.Is(err, identity.ErrBadCredential) || errors.Is(err, identity.ErrUnavailable) {
			t.Errorf("%s, unknown issuer: got %v", name, err)
		}
	}
	var none *identity.Keys
	if none.Generation() != 0 || none.Status() != nil {
		t.Error("nil keys are not empty")
	}
}

func TestLoadReportsAllUnreadableFiles(t *testing.T) {
	c := twoIssuers(t)
	c.Issuers[0].Keys.File = "/nonexistent/a.json"
	c.Issuers[1].Keys.File = temp(t, "{\n\"keys\": [\n}")
	_, err := newVerifier(t, c).Load(context.Background())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `Issuers[0].Keys.File: `) ||
		!strings.Contains(err.Error(), "jwks.json:3: is not valid json") {
		t.Errorf("got %v", err)
	}
}
