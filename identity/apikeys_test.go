package identity_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/apikey"

	"github.com/google/go-cmp/cmp"
)

func newKey(t testing.TB, e apikey.Entry) apikey.Key {
	t.Helper()
	k, err := apikey.New(e)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// keyFile is a file of these keys.
func keyFile(t testing.TB, keys ...apikey.Key) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	text := []byte("keys: []\n")
	if len(keys) > 0 {
		text = nil
	}
	for _, k := range keys {
		var err error
		if text, err = k.AppendTo(path, text); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, path, string(text))
	return path
}

// withKeys is two issuers' configuration that takes API keys beside.
func withKeys(t testing.TB, keys ...apikey.Key) identity.Config {
	c := twoIssuers(t)
	c.APIKeys = identity.APIKeys{File: keyFile(t, keys...)}
	return c
}

func apiKey(k apikey.Key) headers { return headers{"x-api-key": {k.Reveal()}} }

func TestAPIKeyTellsWhoCalls(t *testing.T) {
	k := newKey(t, apikey.Entry{ID: "ci-2026", Subject: "ci", Roles: []string{"deployer", "on: off"}, Groups: []string{"robots"},
		Scopes: []string{"orders:read"}, Expires: noon.Add(time.Hour)})
	path := filepath.Join(t.TempDir(), "keys.yaml")
	writeFile(t, path, string(k.YAML())+"    claims: {team: payments, quota: 250, rate: 1.50, list: [true, null], deep: {a: \"1\"}}\n")
	v := newVerifier(t, identity.Config{Clock: func() time.Time { return noon }, APIKeys: identity.APIKeys{File: path}})
	if !v.Configured() {
		t.Error("a verifier of API keys is not configured")
	}
	keys := load(t, v)
	id, err := v.Identify(context.Background(), keys, identity.Request{Header: apiKey(k).get})
	if err != nil {
		t.Fatal(err)
	}
	want := identity.Identity{Type: identity.TypeSub, Identity: "ci", Subject: "ci", Roles: []string{"deployer", "on: off"}, Groups: []string{"robots"},
		Scopes: []string{"orders:read"}, Expires: noon.Add(time.Hour), Authenticated: true, Claims: object{"key_id": "ci-2026", "team": "payments",
			"quota": json.Number("250"), "rate": json.Number("1.50"), "list": []any{true, nil}, "deep": object{"a": "1"}}}
	type plain identity.Identity
	if diff := cmp.Diff(plain(want), plain(id)); diff != "" {
		t.Error(diff)
	}
	if s := keys.Status()[0]; s.Issuer != "api_keys.file" || !s.Loaded || s.Keys != 1 {
		t.Errorf("status %+v", s)
	}
}

// TestAPIKeyForm holds the form that secret scanners are told.
func TestAPIKeyForm(t *testing.T) {
	form := regexp.MustCompile(`^gatehouse_[0-9A-Za-z]{8}_[0-9A-Za-z]{49}$`)
	seen := map[string]bool{}
	for range 200 {
		k := newKey(t, apikey.Entry{Subject: "ci"})
		if text := k.Reveal(); !form.MatchString(text) || seen[text] {
			t.Fatalf("a key of another form, or the same again")
		}
		seen[k.Reveal()] = true
		for _, shown := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %q %x %s", k, k, k, k, k), toJSON(k)} {
			if secret := k.Reveal()[len("gatehouse_12345678_"):]; strings.Contains(shown, secret) || strings.Contains(shown, fmt.Sprintf("%x", secret)) {
				t.Fatalf("the key shows in %s", shown)
			}
		}
	}
}

// TestAPIKeyOutcomes is what each credential is answered.
func TestAPIKeyOutcomes(t *testing.T) {
	entry := func(e apikey.Entry) apikey.Key { e.Subject = "ci"; return newKey(t, e) }
	good1, good2, stranger := entry(apikey.Entry{}), entry(apikey.Entry{}), entry(apikey.Entry{})
	expired, early := entry(apikey.Entry{Expires: noon}), entry(apikey.Entry{NotBefore: noon.Add(time.Second)})
	c := withKeys(t, good1, good2, expired, early)
	v := newVerifier(t, c)
	keys := load(t, v)
	text := good1.Reveal()
	swap := func(i int) string {
		other := byte('a')
		if text[i] == other {
			other = 'b'
		}
		return text[:i] + string(other) + text[i+1:]
	}
	jwt := good(nil)
	for name, tt := range map[string]struct {
		h    headers
		want string
	}{
		"a key":                              {apiKey(good1), "ok"},
		"another key of the same subject":    {apiKey(good2), "ok"},
		"no credential":                      {headers{}, "anonymous"},
		"a token":                            {bearer(jwt), "ok"},
		"a key that is not in the file":      {apiKey(stranger), "bad credential: unknown api key"},
		"an expired key":                     {apiKey(expired), "bad credential: api key expired"},
		"a key before its time":              {apiKey(early), "bad credential: api key is not valid yet"},
		"one character of the secret":        {headers{"x-api-key": {swap(30)}}, "bad credential: api key is mistyped or cut off"},
		"one character of the lookup":        {headers{"x-api-key": {swap(12)}}, "bad credential: api key is mistyped or cut off"},
		"one character of the checksum":      {headers{"x-api-key": {swap(67)}}, "bad credential: api key is mistyped or cut off"},
		"another character for the line":     {headers{"x-api-key": {text[:18] + "-" + text[19:]}}, "bad credential: api key is mistyped or cut off"},
		"cut off":                            {headers{"x-api-key": {text[:67]}}, "bad credential: api key is mistyped or cut off"},
		"something behind":                   {headers{"x-api-key": {text + "x"}}, "bad credential: api key is mistyped or cut off"},
		"the mark alone":                     {headers{"x-api-key": {"gatehouse_"}}, "bad credential: api key is mistyped or cut off"},
		"the lookup of one, secret of other": {headers{"x-api-key": {checksummed(text[:19] + good2.Reveal()[19:62])}}, "bad credential: unknown api key"},
		"a password":                         {headers{"x-api-key": {"hunter2"}}, "bad credential: not an api key made by gatehouse identity new-key"},
		"a token in the place of keys":       {headers{"x-api-key": {jwt}}, "bad credential: not an api key made by gatehouse identity new-key"},
		"a key in the place of tokens":       {bearer(text), "bad credential: api key in a place for tokens"},
		"a key in a cookie":                  {headers{"cookie": {"access_token=" + text}}, "bad credential: api key in a place for tokens"},
		"key and token":                      {headers{"x-api-key": {text}, "authorization": {"Bearer " + jwt}}, "bad credential: different credentials on one request"},
		"two different keys":                 {headers{"x-api-key": {text}, "x-token": {good2.Reveal()}}, "bad credential: different credentials on one request"},
		"the same key in two places":         {headers{"x-api-key": {text}, "x-token": {text}}, "ok"},
		"the same token in two places":       {headers{"x-api-key": {jwt}, "authorization": {"Bearer " + jwt}}, "ok"},
		"the header twice":                   {headers{"x-api-key": {text, text}}, "bad credential: credential header is sent more than once"},
		"two keys joined":                    {headers{"x-api-key": {text + "," + text}}, "bad credential: api key is mistyped or cut off"},
		"an empty header":                    {headers{"x-api-key": {""}}, "anonymous"},
		"spaces around":                      {headers{"x-api-key": {" " + text + "\t"}}, "ok"},
		"scheme in front":                    {headers{"x-api-key": {"Key " + text}}, "bad credential: not an api key made by gatehouse identity new-key"},
	} {
		if got := outcome(t, v, keys, tt.h); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if got := outcome(t, v, nil, apiKey(good1)); got != "identity unavailable: api keys were never loaded" {
		t.Errorf("without keys: %q", got)
	}
	other := newVerifier(t, c)
	if got := outcome(t, other, keys, apiKey(good1)); got != "identity unavailable: api keys were never loaded" {
		t.Errorf("with another verifier's keys: %q", got)
	}
}

// checksummed puts the right checksum behind a key's text, as someone who forges keys would.
func checksummed(text string) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	crc := crc32.ChecksumIEEE([]byte(text))
	var sum [6]byte
	for i := 5; i >= 0; i-- {
		sum[i] = digits[crc%62]
		crc /= 62
	}
	return text + string(sum[:])
}

func TestAPIKeyPlaces(t *testing.T) {
	k := newKey(t, apikey.Entry{Subject: "ci"})
	c := withKeys(t, k)
	c.APIKeys.Header, c.APIKeys.Scheme = "Authorization", "Key"
	v := newVerifier(t, c)
	keys := load(t, v)
	for value, want := range map[string]string{
		"Key " + k.Reveal():     "ok",
		"key  " + k.Reveal():    "ok",
		"Bearer " + good(nil):   "ok",
		"Bearer " + k.Reveal():  "bad credential: api key in a place for tokens",
		"Key " + good(nil):      "bad credential: not an api key made by gatehouse identity new-key",
		"Key":                   "bad credential: credential is empty",
		"Key a, Bearer b":       "bad credential: several credentials in one header",
		"Basic dXNlcjpwYXNz":    "anonymous",
		"Key " + k.Reveal()[1:]: "bad credential: not an api key made by gatehouse identity new-key",
	} {
		got := outcome(t, v, keys, headers{"authorization": {value}})
		if value == "Key a, Bearer b" { // one of the two places sees it, in the order of the configuration
			want = got
			if got == "ok" || got == "anonymous" {
				t.Errorf("a joined header: %q", got)
			}
		}
		if got != want {
			t.Errorf("%.12s: %q, want %q", value, got, want)
		}
	}
	if got := outcome(t, v, keys, apiKey(k)); got != "anonymous" {
		t.Errorf("a header that is not configured: %q", got)
	}
}

func TestAPIKeyConfig(t *testing.T) {
	for want, c := range map[string]identity.APIKeys{
		`APIKeys.File: is required`:                                               {Header: "x-api-key"},
		`APIKeys.Scheme: the header "authorization" needs one`:                    {File: "k", Header: "Authorization"},
		`header "authorization" with the scheme "bearer" is the place of another`: {File: "k", Header: "Authorization", Scheme: "Bearer"},
		`APIKeys.Header: From: header "x-token" is the place of another`:          {File: "k", Header: "X-Token"},
		`header "x-token" is listed with a scheme and without`:                    {File: "k", Header: "x-token", Scheme: "key"},
		`APIKeys.Header: From: header "cookie" is not a header name for a token`:  {File: "k", Header: "cookie"},
	} {
		config := twoIssuers(t)
		config.APIKeys = c
		if _, err := identity.New(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestAPIKeyFileErrors are files that are refused: each error has the line and what to do, and none shows what may be a key.
func TestAPIKeyFileErrors(t *testing.T) {
	const secret = "Zk3v9QwA_hunter2hunter2"
	sum := strings.Repeat("ab", 32)
	entry := func(more string) string {
		return "keys:\n  - prefix: gatehouse_Zk3v9QwA\n    sha256: " + sum + "\n    subject: ci\n" + more
	}
	hint := "gatehouse identity new-key"
	for _, tt := range []struct{ file, want string }{
		{"", "is empty: without any keys it must say keys: []"},
		{"# nothing\n", "is empty: without any keys it must say keys: []"},
		{"keys: [\n", ":1: is not valid YAML"},
		{"keys: []\n---\nkeys: []\n", "holds more than one YAML document"},
		{secret + "\n", `:1: must hold "keys", a list`},
		{"- " + secret + "\n", `:1: must hold "keys", a list`},
		{"keys: []\nother: 1\n", `:1: must hold "keys", a list`},
		{"keys:\n  ci: " + secret + "\n", `:2: "keys" is not a list: make a new key with ` + hint},
		{"keys:\n  - " + secret + "\n", ":2: is not an entry with prefix, sha256 and subject: keys in plain text are refused"},
		{"keys:\n  - key: " + secret + "\n    subject: ci\n", ":2: key would hold a key in plain text; only a SHA-256 is kept here: make a new key with " + hint},
		{"keys:\n  - subject: ci\n    Password: " + secret + "\n", ":3: password would hold a key in plain text"},
		{"keys:\n  - subject: ci\n    bcrypt: " + secret + "\n", ":3: bcrypt: keys that are hashed in another way cannot be used"},
		{"keys:\n  - subject: ci\n    " + secret + ": 1\n", ":3: unknown key in an entry: known are id, prefix"},
		{"keys:\n  - prefix: gatehouse_Zk3v9QwA\n    subject: ci\n", ":2: the entry has no sha256"},
		{"keys:\n  - sha256: " + sum + "\n", ":2: the entry has no prefix"},
		{"keys:\n  - prefix: gatehouse_" + secret + "\n", ":2: prefix holds more than the first 18 characters of a key"},
		{"keys:\n  - prefix: " + secret + "\n", ":2: prefix is not gatehouse_ and eight letters or digits: keys of other forms are refused"},
		{strings.Replace(entry(""), sum, "gatehouse_"+secret, 1), ":3: sha256 holds a key in plain text"},
		{strings.Replace(entry(""), sum, "$2b$12$"+secret, 1), ":3: sha256 holds a hash of another kind"},
		{strings.Replace(entry(""), sum, "sha256:"+sum, 1), ":3: sha256 holds a hash of another kind"},
		{strings.Replace(entry(""), sum, sum[:40], 1), ":3: sha256 is not 64 hexadecimal digits"},
		{strings.Replace(entry(""), sum, sum+"ab", 1), ":3: sha256 is not 64 hexadecimal digits"},
		{strings.Replace(entry(""), "ci", "17", 1), ":4: subject reads as a number"},
		{strings.Replace(entry(""), "ci", `""`, 1), ":4: subject is not a non-empty text"},
		{strings.Replace(entry(""), "ci", `"a\nb"`, 1), ":4: subject is not a non-empty text"},
		{entry("    subject: ci\n"), ":5: subject is there twice"},
		{entry("    roles: admin\n"), ":5: roles is not a list"},
		{entry("    roles: [1]\n"), ":5: roles holds something that is not a non-empty text"},
		{entry("    scopes:\n      - [x]\n"), ":6: scopes holds something"},
		{entry("    expires: 2027-01-31\n"), ":5: expires is not a date with time and zone"},
		{entry("    expires: never\n"), ":5: expires is not a date with time and zone"},
		{entry("    not_before: 2027-01-31T00:00:00Z\n    expires: 2027-01-31T00:00:00Z\n"), ":2: expires is not after not_before"},
		{entry("    claims: x\n"), ":5: claims is not a mapping"},
		{entry("    claims: {a: 0x1F}\n"), ":5: claims hold a number that JSON does not know"},
		{entry("    claims: {a: .inf}\n"), ":5: claims hold a number that JSON does not know"},
		{entry("    claims: {a: 2027-01-31}\n"), ":5: claims hold a date"},
		{entry("    claims: {a: 1, a: 2}\n"), ":5: claims hold a name that is there twice"},
		{entry("    claims: {1: 2}\n"), ":5: claims hold a name that is there twice or is not a text"},
		{entry("    claims: {key_id: x}\n"), ":5: claims: key_id is set from id"},
		{entry("    claims: &a {b: [*a]}\n"), ":5: aliases are not supported"},
		{entry("    claims: {a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}\n"), ":5: claims are nested too deeply"},
		{entry("    id: gatehouse_" + secret + "\n"), ":5: id must not hold a key"},
		{entry(strings.TrimPrefix(entry(""), "keys:\n")), ":5: the id \"Zk3v9QwA\" is already on line 2"},
		{entry("    id: a\n" + strings.TrimPrefix(entry(""), "keys:\n")), ":6: another entry has the same prefix"},
		{entry("    <<: {roles: [admin]}\n"), ":5: unknown key in an entry"},
		{"keys: [" + strings.Repeat("x,", 1<<19) + "]", "more than 1048576 bytes"},
	} {
		path := filepath.Join(t.TempDir(), "keys.yaml")
		writeFile(t, path, tt.file)
		_, err := newVerifier(t, identity.Config{APIKeys: identity.APIKeys{File: path}}).Load(context.Background())
		if err == nil || !strings.HasPrefix(err.Error(), "APIKeys.File: "+path+":") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60q: %v, want %s", tt.file, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("a key or several lines in %v", err)
		}
	}
}

func TestAPIKeyAppend(t *testing.T) {
	first, second := newKey(t, apikey.Entry{ID: "one", Subject: "ci"}), newKey(t, apikey.Entry{ID: "two", Subject: "ci"})
	item := strings.TrimPrefix(string(first.YAML()), "keys:\n")
	flush := strings.ReplaceAll(strings.ReplaceAll(item, "\n    ", "\n  "), "  - ", "- ")
	for name, tt := range map[string]struct {
		before string
		want   string // "" = appended; else part of the error
	}{
		"an empty file":      {"", ""},
		"the usual form":     {string(first.YAML()), ""},
		"without a line end": {strings.TrimSuffix(string(first.YAML()), "\n"), ""},
		"with comments":      {"# ours\n\nkeys: # all\n  # the first\n" + item + "# the end\n", ""},
		"flush with keys":    {"keys:\n" + flush, ""},
		"deeply indented":    {"keys:\n    " + strings.ReplaceAll(strings.TrimSuffix(item, "\n"), "\n", "\n    ") + "\n", ""},
		"a flow list":        {"keys: []\n", "write the list in block style"},
		"the id again":       {strings.Replace(string(first.YAML()), "id: one", "id: two", 1), `the id "two" is already on line 2`},
		"a broken file":      {"keys: [\n", "is not valid YAML"},
	} {
		after, err := second.AppendTo("keys.yaml", []byte(tt.before))
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %s", name, err, tt.want)
			}
			continue
		}
		if err != nil || !strings.HasPrefix(string(after), tt.before) {
			t.Errorf("%s: %v\n%s", name, err, after)
			continue
		}
		path := filepath.Join(t.TempDir(), "keys.yaml")
		writeFile(t, path, string(after))
		v := newVerifier(t, identity.Config{APIKeys: identity.APIKeys{File: path}})
		keys := load(t, v)
		if got := outcome(t, v, keys, apiKey(second)); got != "ok" {
			t.Errorf("%s: the new key: %s", name, got)
		}
		if got := outcome(t, v, keys, apiKey(first)); tt.before != "" && got != "ok" {
			t.Errorf("%s: the old key: %s", name, got)
		}
	}
}

// TestAPIKeyRotation follows the file while requests are pinned to what was published.
func TestAPIKeyRotation(t *testing.T) {
	old, next := newKey(t, apikey.Entry{ID: "old", Subject: "ci"}), newKey(t, apikey.Entry{ID: "next", Subject: "ci"})
	path := keyFile(t, old)
	now := noon
	r := run(t, identity.Config{Clock: func() time.Time { return now }, APIKeys: identity.APIKeys{File: path}})
	decides := func(keys *identity.Keys, k apikey.Key, want string) {
		t.Helper()
		if got := outcome(t, r.v, keys, apiKey(k)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	of := func(n int) func(identity.KeyStatus) bool {
		return func(s identity.KeyStatus) bool { return s.Error == "" && s.Loaded && s.Keys == n }
	}
	const unknown = "bad credential: unknown api key"
	one := r.next("the first key", of(1))
	decides(one, old, "ok")
	decides(one, next, unknown)

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	both, err := next.AppendTo(path, text)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, string(both))
	two := r.next("both keys", of(2))
	decides(two, old, "ok")
	decides(two, next, "ok")
	if two.Generation() <= one.Generation() {
		t.Errorf("generation %d after %d", two.Generation(), one.Generation())
	}

	writeFile(t, path, "keys: [")
	broken := r.next("the broken file", isBroken)
	decides(broken, old, "ok")
	if s := broken.Status()[0]; !s.Loaded || s.Keys != 2 {
		t.Errorf("status %+v", s)
	}
	writeFile(t, path, string(next.YAML()))
	rotated := r.next("the new key alone", of(1))
	decides(rotated, old, unknown)
	decides(rotated, next, "ok")
	decides(one, old, "ok") // a request that pinned the older set

	writeFile(t, path, "keys: []\n")
	decides(r.next("no key at all", of(0)), next, unknown)
}

// TestAPIKeyExpiryIsOfEachRequest moves the clock over one loaded set.
func TestAPIKeyExpiryIsOfEachRequest(t *testing.T) {
	k := newKey(t, apikey.Entry{Subject: "ci", NotBefore: noon, Expires: noon.Add(time.Minute)})
	now := noon
	v := newVerifier(t, identity.Config{Clock: func() time.Time { return now }, APIKeys: identity.APIKeys{File: keyFile(t, k)}})
	keys := load(t, v)
	for _, tt := range []struct {
		after time.Duration
		want  string
	}{{-1, "bad credential: api key is not valid yet"}, {0, "ok"}, {time.Minute - 1, "ok"}, {time.Minute, "bad credential: api key expired"}, {time.Hour, "bad credential: api key expired"}} {
		now = noon.Add(tt.after)
		if got := outcome(t, v, keys, apiKey(k)); got != tt.want {
			t.Errorf("after %s: %q, want %q", tt.after, got, tt.want)
		}
	}
}

// FuzzAPIKeyFile reads arbitrary files: an error of one line, or keys.
func FuzzAPIKeyFile(f *testing.F) {
	k := newKey(f, apikey.Entry{ID: "one", Subject: "ci", Roles: []string{"a"}, Expires: noon})
	f.Add(k.YAML())
	f.Add([]byte("keys: []\n"))
	f.Add([]byte("keys:\n  - &a {prefix: *a}\n"))
	f.Add([]byte("keys:\n  - claims: {a: [1, 2.5, x, null, {b: c}]}\n"))
	path := filepath.Join(f.TempDir(), "keys.yaml")
	v := newVerifier(f, identity.Config{APIKeys: identity.APIKeys{File: path}})
	f.Fuzz(func(t *testing.T, file []byte) {
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Load(context.Background()); err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("several lines: %v", err)
			}
			return
		}
		if after, err := k.AppendTo(path, file); err == nil && !strings.HasPrefix(string(after), string(file)) {
			t.Fatal("what was there has changed")
		}
	})
}

func BenchmarkAPIKey(b *testing.B) {
	k := newKey(b, apikey.Entry{Subject: "ci", Roles: []string{"deployer"}, Expires: noon.Add(time.Hour)})
	v := newVerifier(b, withKeys(b, k))
	keys := load(b, v)
	get, ctx := apiKey(k).get, context.Background()
	if got := outcome(b, v, keys, apiKey(k)); got != "ok" {
		b.Fatal(got)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = v.Identify(ctx, keys, identity.Request{Header: get})
	}
}
