package identity_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/identity"

	"github.com/google/go-cmp/cmp"
)

func TestIntrospectionTellsWhoCalls(t *testing.T) {
	s := newIntrospectionServer(t)
	s.says(opaque, active(object{"realm_access": object{"roles": []string{"clerk"}}, "groups": []string{"eu"}, "scope": "a b", "n": 12345678901234567}))
	r := run(t, s.asking(t))
	keys := r.next("the secret", isGood)
	id, err := r.v.Identify(context.Background(), keys, identity.Request{Header: bearer(opaque).get})
	if err != nil {
		t.Fatal(err)
	}
	if id.Type != identity.TypeSub || id.Subject != subject || id.Identity != subject || id.Issuer != "" || !id.Authenticated ||
		!id.Expires.Equal(noon.Add(time.Hour)) || fmt.Sprint(id.Claims["n"]) != "12345678901234567" || id.Claims["client_id"] != "shop" {
		t.Errorf("%+v", id)
	}
	if diff := cmp.Diff([][]string{{"clerk"}, {"eu"}, {"a", "b"}}, [][]string{id.Roles, id.Groups, id.Scopes}); diff != "" {
		t.Error(diff)
	}
	if !r.v.Configured() {
		t.Error("not configured")
	}
}

// TestIntrospectionAnswers is what each answer makes of a token, first asked and then remembered.
func TestIntrospectionAnswers(t *testing.T) {
	s := newIntrospectionServer(t)
	c := s.asking(t)
	c.Introspection[0].Issuer = "https://opaque.example"
	r := run(t, c)
	keys := r.next("the secret", isGood)
	plain := func(status int, contentType, body string) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return true
		}
	}
	const down = "identity unavailable: introspection server"
	i := 0
	for name, tt := range map[string]struct {
		answer any // as JSON, or what the server does instead
		want   string
		asked  int64 // for two requests
	}{
		"active":                       {active(nil), "ok", 1},
		"inactive":                     {object{"active": false}, "bad credential: token is not active", 1},
		"inactive, with claims":        {active(object{"active": false}), "bad credential: token is not active", 1},
		"active is a text":             {active(object{"active": "true"}), down + "'s answer does not say whether the token is active", 2},
		"active is a number":           {active(object{"active": 1}), down + "'s answer does not say whether the token is active", 2},
		"active is null":               {`{"active":null,"sub":"a"}`, down + "'s answer does not say whether the token is active", 2},
		"active is missing":            {active(object{"active": nil}), down + "'s answer does not say whether the token is active", 2},
		"active twice":                 {`{"active":false,"active":true,"sub":"a","aud":"orders"}`, down + "'s answer is not strict json", 2},
		"Active":                       {`{"Active":true,"sub":"a","aud":"orders"}`, down + "'s answer does not say whether the token is active", 2},
		"a list":                       {`[{"active":true}]`, down + "'s answer is not strict json", 2},
		"something behind":             {toJSON(active(nil)) + "x", down + "'s answer is not strict json", 2},
		"deep":                         {`{"active":true,"sub":"a","aud":"orders","x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, down + "'s answer is not strict json", 2},
		"nothing":                      {"", down + "'s answer is not strict json", 2},
		"too long":                     {`{"active":true,"x":"` + strings.Repeat("x", 65<<10) + `"}`, down + "'s answer is too long", 2},
		"HTML":                         {plain(200, "text/html", toJSON(active(nil))), down + "'s answer is not application/json", 2},
		"a signed answer":              {plain(200, "application/token-introspection+jwt", "eyJ"), down + "'s answer is not application/json", 2},
		"a redirect":                   {plain(307, "", ""), down + " redirects, which is not followed", 2},
		"another redirect":             {plain(302, "", ""), down + " redirects, which is not followed", 2},
		"we are unknown":               {plain(401, "application/json", toJSON(active(nil))), down + " refuses our client credentials", 2},
		"we are forbidden":             {plain(403, "application/json", toJSON(active(nil))), down + " refuses our client credentials", 2},
		"a bad question":               {plain(400, "application/json", toJSON(active(nil))), down + " refuses the question", 2},
		"no such page":                 {plain(404, "application/json", toJSON(active(nil))), down + " refuses the question", 2},
		"too many":                     {plain(429, "application/json", toJSON(active(nil))), down + " failed", 2},
		"a fault":                      {plain(500, "application/json", toJSON(active(nil))), down + " failed", 2},
		"down behind a proxy":          {plain(503, "application/json", toJSON(active(nil))), down + " failed", 2},
		"created":                      {plain(201, "application/json", toJSON(active(nil))), down + " failed", 2},
		"without exp":                  {active(object{"exp": nil}), "ok", 1},
		"expired":                      {active(object{"exp": at(-time.Minute)}), "bad credential: token expired", 2},
		"expired within the skew":      {active(object{"exp": at(-20 * time.Second)}), "ok", 1},
		"exp is a text":                {active(object{"exp": "1"}), "bad credential: a time claim is not a number in range", 2},
		"not yet valid":                {active(object{"nbf": at(time.Minute)}), "bad credential: token is not valid yet", 2},
		"issued in the future":         {active(object{"iat": at(time.Minute)}), "bad credential: token was issued in the future", 2},
		"the issuer":                   {active(object{"iss": "https://opaque.example"}), "ok", 1},
		"another issuer":               {active(object{"iss": "https://other.example"}), "bad credential: issuer of the introspected token does not match", 2},
		"issuer is a list":             {active(object{"iss": []string{"https://opaque.example"}}), "bad credential: issuer is missing or not a string", 2},
		"several audiences":            {active(object{"aud": []string{"x", "stock"}}), "ok", 1},
		"another audience":             {active(object{"aud": "x"}), "bad credential: audience does not match", 2},
		"a longer audience":            {active(object{"aud": "orders2"}), "bad credential: audience does not match", 2},
		"no audience":                  {active(object{"aud": nil}), "bad credential: audience is missing or not a string or list of strings", 2},
		"no subject":                   {active(object{"sub": nil, "username": "bob"}), "bad credential: subject is missing or not a plain string", 2},
		"subject with a control":       {active(object{"sub": "a\nb"}), "bad credential: subject is missing or not a plain string", 2},
		"roles are an object":          {active(object{"realm_access": object{"roles": object{}}}), "bad credential: roles claim is not a string or list of strings", 2},
		"the token of another's cache": {active(object{"sub": "u2"}), "ok", 1},
	} {
		i++
		tok := fmt.Sprintf("%s-%d", opaque, i)
		s.first(nil)
		if do, ok := tt.answer.(func(http.ResponseWriter) bool); ok {
			s.first(do)
		} else {
			s.says(tok, tt.answer)
		}
		before := s.questions.Load()
		for range 2 {
			if got := r.ask(keys, bearer(tok)); got != tt.want {
				t.Errorf("%s: %q, want %q", name, got, tt.want)
			}
		}
		if asked := s.questions.Load() - before; asked != tt.asked {
			t.Errorf("%s: asked %d times, want %d", name, asked, tt.asked)
		}
	}
	if !strings.Contains(r.log.String(), `"introspection"`) {
		t.Error("the log says nothing of the failures")
	}
}

// TestIntrospectionDown is a server that is not there, and one that does not answer.
func TestIntrospectionDown(t *testing.T) {
	s := newIntrospectionServer(t)
	c := s.asking(t)
	c.Introspection[0].Timeout = 50 * time.Millisecond
	r := run(t, c)
	keys := r.next("the secret", isGood)
	release := make(chan struct{})
	s.first(func(http.ResponseWriter) bool { <-release; return true })
	if got := r.ask(keys, bearer(opaque)); got != "identity unavailable: introspection server did not answer in time" {
		t.Errorf("a silent server: %q", got)
	}
	close(release)
	r = run(t, s.asking(t)) // which has the time that a busy machine needs
	keys = r.next("the secret", isGood)
	s.first(func(w http.ResponseWriter) bool {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `{"active":true`)
		return true
	})
	if got := r.ask(keys, bearer(opaque)); got != "identity unavailable: introspection server cannot be reached" {
		t.Errorf("half an answer: %q", got)
	}
	s.Close()
	if got := r.ask(keys, bearer(opaque)); got != "identity unavailable: introspection server cannot be reached" {
		t.Errorf("no server: %q", got)
	}
	if got := r.ask(nil, bearer(opaque)); got != "identity unavailable: client secret or key for introspection was never loaded" {
		t.Errorf("no secret: %q", got)
	}
}

// TestIntrospectionIsRemembered moves the clock over answers.
func TestIntrospectionIsRemembered(t *testing.T) {
	s := newIntrospectionServer(t)
	var now atomic.Int64
	c := s.asking(t)
	c.Clock = func() time.Time { return noon.Add(time.Duration(now.Load())) }
	r := run(t, c)
	keys := r.next("the secret", isGood)
	const inactive = "bad credential: token is not active"
	step := func(at time.Duration, tok, want string, asked int64) {
		t.Helper()
		now.Store(int64(at))
		before := s.questions.Load()
		if got := r.ask(keys, bearer(tok)); got != want {
			t.Errorf("at %s: %q, want %q", at, got, want)
		}
		if n := s.questions.Load() - before; n != asked {
			t.Errorf("at %s: asked %d times, want %d", at, n, asked)
		}
	}
	s.says(opaque, active(nil))
	step(0, opaque, "ok", 1)
	s.says(opaque, object{"active": false}) // revoked
	step(time.Minute-1, opaque, "ok", 0)
	step(time.Minute, opaque, inactive, 1)
	step(time.Minute+10*time.Second-1, opaque, inactive, 0)
	s.says(opaque, active(nil))
	step(time.Minute+10*time.Second, opaque, "ok", 1)

	s.says("short", active(object{"exp": at(20 * time.Second), "iat": nil}))
	step(0, "short", "ok", 1)
	step(50*time.Second-1, "short", "ok", 0) // exp and the skew
	step(50*time.Second, "short", "bad credential: token expired", 1)

	c.Introspection[0].CacheFor = -1
	r = run(t, c)
	keys = r.next("the secret", isGood)
	step(0, opaque, "ok", 1)
	step(0, opaque, "ok", 1)
	step(0, "unknown", inactive, 1)
	step(0, "unknown", inactive, 1)
}

// TestIntrospectionAsksOnce lets many requests come with one token before the first answer.
func TestIntrospectionAsksOnce(t *testing.T) {
	s := newIntrospectionServer(t)
	s.says(opaque, active(nil))
	release, entered := make(chan struct{}), make(chan struct{}, 1000)
	s.first(func(http.ResponseWriter) bool { entered <- struct{}{}; <-release; return false })
	r := run(t, s.asking(t))
	keys := r.next("the secret", isGood)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got := r.ask(keys, bearer(opaque)); got != "ok" {
				t.Errorf("got %q", got)
			}
		})
	}
	<-entered
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := r.v.Identify(gone, keys, identity.Request{Header: bearer(opaque).get})
	if fmt.Sprint(err) != goneText {
		t.Errorf("a request that is gone: %v", err)
	}
	close(release)
	wg.Wait()
	if n := s.questions.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

const goneText = "identity unavailable: introspection server did not answer in the time that the request has"

// announced has a deadline and does not end there: what ends does so because it kept to a part of the time.
type announced struct {
	context.Context
	at time.Time
}

func (a announced) Deadline() (time.Time, bool) { return a.at, true }

// TestIntrospectionOutlivesItsRequest gives the first request up while it asks: the next one gets the answer.
func TestIntrospectionOutlivesItsRequest(t *testing.T) {
	s := newIntrospectionServer(t)
	s.says(opaque, active(nil))
	release, entered := make(chan struct{}), make(chan struct{}, 10)
	s.first(func(http.ResponseWriter) bool { entered <- struct{}{}; <-release; return false })
	r := run(t, s.asking(t))
	keys := r.next("the secret", isGood)
	first, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		_, err := r.v.Identify(first, keys, identity.Request{Header: bearer(opaque).get})
		ended <- err
	}()
	<-entered
	cancel()
	if err := <-ended; fmt.Sprint(err) != goneText {
		t.Errorf("the first request: %v", err)
	}
	_, err := r.v.Identify(announced{context.Background(), time.Now().Add(200 * time.Millisecond)}, keys, identity.Request{Header: bearer(opaque).get})
	if fmt.Sprint(err) != goneText {
		t.Errorf("a request with little time: %v", err)
	}
	close(release)
	if got := r.ask(keys, bearer(opaque)); got != "ok" || s.questions.Load() != 1 {
		t.Errorf("%q after %d questions", got, s.questions.Load())
	}
}

// TestIntrospectionIsBounded asks more at once than is allowed.
func TestIntrospectionIsBounded(t *testing.T) {
	const most = 64
	s := newIntrospectionServer(t)
	release, entered := make(chan struct{}), make(chan struct{}, 2*most)
	s.first(func(http.ResponseWriter) bool { entered <- struct{}{}; <-release; return false })
	c := s.asking(t)
	c.Introspection[0].Timeout = 30 * time.Second
	r := run(t, c)
	keys := r.next("the secret", isGood)
	var wg sync.WaitGroup
	for i := range most {
		wg.Go(func() { r.ask(keys, bearer(fmt.Sprint("flood", i))) })
	}
	for range most {
		<-entered
	}
	if got := r.ask(keys, bearer(opaque)); got != "identity unavailable: too many questions to the introspection server at once" {
		t.Errorf("got %q", got)
	}
	close(release)
	wg.Wait()
	if got := r.ask(keys, bearer(opaque)); got != "bad credential: token is not active" {
		t.Errorf("afterwards %q", got)
	}
}

// TestIntrospectionFlood pours in more wrong tokens than are remembered: a good one's answer stays.
func TestIntrospectionFlood(t *testing.T) {
	s := newIntrospectionServer(t)
	s.says(opaque, active(nil))
	r := run(t, s.asking(t))
	keys := r.next("the secret", isGood)
	r.ask(keys, bearer(opaque))
	for i := range 11_000 {
		_, _ = r.v.Identify(context.Background(), keys, identity.Request{Header: bearer(fmt.Sprint("flood", i)).get})
	}
	before := s.questions.Load()
	if got := r.ask(keys, bearer(opaque)); got != "ok" || s.questions.Load() != before {
		t.Errorf("the good token was forgotten: %q", got)
	}
	if got := r.ask(keys, bearer("flood10999")); s.questions.Load() != before {
		t.Errorf("the latest wrong token was forgotten: %q", got)
	}
	if r.ask(keys, bearer("flood0")); s.questions.Load() != before+1 {
		t.Error("the first wrong token is still remembered")
	}
}

// TestIntrospectionMemory remembers large answers up to a limit.
func TestIntrospectionMemory(t *testing.T) {
	s := newIntrospectionServer(t)
	r := run(t, s.asking(t))
	keys := r.next("the secret", isGood)
	const large = 300 // of 60 KiB: more than the 16 MiB that are kept
	for i := range large {
		tok := fmt.Sprint("large", i)
		s.says(tok, active(object{"x": strings.Repeat("x", 60<<10)}))
		if got := r.ask(keys, bearer(tok)); got != "ok" {
			t.Fatalf("got %q", got)
		}
	}
	if r.ask(keys, bearer(fmt.Sprint("large", large-1))); s.questions.Load() != large {
		t.Error("the latest answer was forgotten")
	}
	if r.ask(keys, bearer("large0")); s.questions.Load() != large+1 {
		t.Error("all answers are still remembered")
	}
}

// TestIntrospectionConnections keeps one connection between questions, and none when Run has ended.
func TestIntrospectionConnections(t *testing.T) {
	s := newIntrospectionServer(t)
	var opened atomic.Int64
	closed := make(chan struct{}, 10)
	s.mu.Lock()
	s.change = func(state http.ConnState) {
		switch state {
		case http.StateNew:
			opened.Add(1)
		case http.StateClosed:
			closed <- struct{}{}
		}
	}
	s.mu.Unlock()
	v := newVerifier(t, s.asking(t))
	ctx, cancel := context.WithCancel(context.Background())
	published, ended := make(chan *identity.Keys, 10), make(chan error)
	go func() { ended <- v.Run(ctx, func(k *identity.Keys) { published <- k }) }()
	keys := <-published
	for i := range 5 {
		if got := outcome(t, v, keys, bearer(fmt.Sprint("token", i))); got != "bad credential: token is not active" {
			t.Errorf("got %q", got)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections for questions one after the other", n)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(29 * time.Second): // less than the idle timeout
		t.Error("the connection stays open")
	}
}

// TestWhoTakesAToken sends tokens of every shape through a configuration with two issuers and two servers.
func TestWhoTakesAToken(t *testing.T) {
	one, two := newIntrospectionServer(t), newIntrospectionServer(t)
	c := twoIssuers(t)
	first, second := one.asking(t).Introspection[0], two.asking(t).Introspection[0]
	first.Issuer = "https://c.example"
	second.From = []identity.TokenSource{{Header: "x-keyed"}, {Cookie: "opaque"}}
	first.CacheFor, second.CacheFor = -1, -1
	c.Introspection = []identity.Introspection{first, second}
	r := run(t, c)
	keys := r.next("everything", func(identity.KeyStatus) bool { return true })
	foreign := good(object{"iss": "https://c.example"})
	for _, s := range []*introspectionServer{one, two} {
		s.says(opaque, active(nil))
		s.says(foreign, active(object{"iss": "https://c.example"}))
		s.says(good(nil), active(nil))
	}
	in := func(name, value string) headers { return headers{name: {value}} }
	for name, tt := range map[string]struct {
		h        headers
		want     string
		one, two int64 // questions
	}{
		"an issuer's token":                   {bearer(good(nil)), "ok", 0, 0},
		"the other issuer's":                  {in("x-token", mint("RS256", keyRing().rsaOther, object{"alg": "RS256"}, claims(object{"iss": issuerB}))), "ok", 0, 0},
		"a server's token":                    {bearer(foreign), "ok", 1, 0},
		"a server's token elsewhere":          {in("x-keyed", foreign), "bad credential: issuer does not accept tokens from this place", 0, 0},
		"an issuer's token there":             {in("x-keyed", good(nil)), "bad credential: issuer does not accept tokens from this place", 0, 0},
		"an unknown issuer's token":           {bearer(good(object{"iss": "https://d.example"})), "bad credential: unknown issuer", 0, 0},
		"a token without issuer":              {bearer(good(object{"iss": nil})), "bad credential: issuer is missing or not a string", 0, 0},
		"a forged token":                      {bearer(mint("RS256", keyRing().rsaOther, object{"alg": "RS256", "kid": "r1"}, claims(nil))), "bad credential: signature does not verify", 0, 0},
		"a token with claims that are broken": {bearer("eyJhbGciOiJSUzI1NiJ9.e30x.AAAA"), "bad credential: token is not strict json", 0, 0},
		"a token with padding":                {bearer("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0=.AAAA"), "bad credential: token is not three base64url segments", 0, 0},
		"a space before its header":           {bearer(b64([]byte(` {"alg":"RS256"}`)) + "." + b64([]byte(`{}`)) + ".AAAA"), "bad credential: issuer is missing or not a string", 0, 0},
		"a token with a header that is none":  {bearer("eyJhbGc!.b.c"), "bad credential: token is not three base64url segments", 0, 0},
		"an opaque token":                     {bearer(opaque), "ok", 1, 0},
		"an opaque token of the other":        {in("x-keyed", opaque), "ok", 0, 1},
		"in a cookie":                         {in("cookie", "opaque="+opaque), "ok", 0, 1},
		"two dots, and no token":              {bearer("a.b.c"), "bad credential: token is not active", 1, 0},
		"an encrypted token":                  {bearer("eyJhbGciOiJSU0EifQ.a.b.c.d"), "bad credential: token is not active", 1, 0},
		"an opaque token where none belongs":  {in("x-token", opaque), "bad credential: token is not three base64url segments", 0, 0},
		"the same for both servers":           {headers{"authorization": {"Bearer " + opaque}, "x-keyed": {opaque}}, "bad credential: token is in the places of several introspection servers", 0, 0},
		"different ones":                      {headers{"authorization": {"Bearer " + opaque}, "x-keyed": {opaque + "2"}}, "bad credential: different credentials on one request", 0, 0},
		"token and opaque token":              {headers{"authorization": {"Bearer " + good(nil)}, "x-keyed": {opaque}}, "bad credential: different credentials on one request", 0, 0},
		"none":                                {headers{}, "anonymous", 0, 0},
	} {
		b1, b2 := one.questions.Load(), two.questions.Load()
		if got := r.ask(keys, tt.h); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if q1, q2 := one.questions.Load()-b1, two.questions.Load()-b2; q1 != tt.one || q2 != tt.two {
			t.Errorf("%s: asked %d and %d times, want %d and %d", name, q1, q2, tt.one, tt.two)
		}
	}
}

func TestIntrospectionConfig(t *testing.T) {
	good := identity.Introspection{URL: "https://x/introspect", ClientID: "a", SecretFile: "s"}
	for _, tt := range []struct {
		want   string
		change func(*identity.Introspection)
	}{
		{`URL: "http://x/introspect" must be https`, func(c *identity.Introspection) { c.URL = "http://x/introspect" }},
		{`URL: must not hold a user`, func(c *identity.Introspection) { c.URL = "https://u:hunter2@x/" }},
		{`ClientID: is required`, func(c *identity.Introspection) { c.ClientID = "" }},
		{`SecretFile: exactly one of it and private_key_file`, func(c *identity.Introspection) { c.SecretFile = "" }},
		{`SecretFile: exactly one of it and private_key_file`, func(c *identity.Introspection) { c.KeyFile = "k" }},
		{`KeyID: belongs to private_key_file`, func(c *identity.Introspection) { c.KeyID = "k" }},
		{`AssertionAudience: belongs to private_key_file`, func(c *identity.Introspection) { c.AssertionAudience = "k" }},
		{`Audiences: an empty audience`, func(c *identity.Introspection) { c.Audiences = []string{""} }},
		{`Timeout: "1ms" is not between 10ms and 30s`, func(c *identity.Introspection) { c.Timeout = time.Millisecond }},
		{`Timeout: "1m0s" is not between`, func(c *identity.Introspection) { c.Timeout = time.Minute }},
		{`CacheFor: "25h0m0s" is more than 24h0m0s`, func(c *identity.Introspection) { c.CacheFor = 25 * time.Hour }},
		{`Issuer: "https://a.example" is verified here by identity.jwt`, func(c *identity.Introspection) { c.Issuer = issuerA }},
		{`Issuer: "https://c.example" is listed twice`, func(c *identity.Introspection) { c.Issuer = "https://c.example" }},
		{`From: header "authorization" with the scheme "bearer" is the place of another credential`, func(c *identity.Introspection) { c.From = nil }},
		{`From: exactly one of`, func(c *identity.Introspection) { c.From = []identity.TokenSource{{}} }},
	} {
		c := twoIssuers(t)
		first, bad := good, good
		first.Issuer = "https://c.example"
		bad.From = []identity.TokenSource{{Header: "x-keyed"}}
		tt.change(&bad)
		c.Introspection = []identity.Introspection{first, bad}
		if _, err := identity.New(c); err == nil || !strings.Contains(err.Error(), "Introspection[1]."+tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}

func BenchmarkIntrospectionHit(b *testing.B) {
	s := newIntrospectionServer(b)
	s.says(opaque, active(object{"scope": "openid orders:read", "groups": []string{"eu"}}))
	v := newVerifier(b, s.asking(b))
	keys := load(b, v)
	if got := outcome(b, v, keys, bearer(opaque)); got != "ok" {
		b.Fatal(got)
	}
	get, ctx := bearer(opaque).get, context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = v.Identify(ctx, keys, identity.Request{Header: get})
	}
}
