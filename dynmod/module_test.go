package dynmod

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zapcore"

	"gatehouse/gate"
	"gatehouse/policy"
)

// step is an Op with its texts.
type step struct {
	op          Op
	name, value string
}

func steps(t *testing.T, ops []byte) (all []step) {
	t.Helper()
	for len(ops) > 0 {
		n, v := binary.LittleEndian.Uint32(ops[1:]), binary.LittleEndian.Uint32(ops[5:])
		all = append(all, step{Op(ops[0]), string(ops[9 : 9+n]), string(ops[9+n : 9+n+v])})
		ops = ops[9+n+v:]
	}
	return all
}

func TestRender(t *testing.T) {
	t.Parallel()
	allowed := gate.Answer{Allow: true, DecisionID: "D", Set: []gate.HeaderOption{{Name: "x-a", Value: "1"}}, Remove: []string{"X-B", ":path", "Host"},
		Response: []gate.HeaderOption{{Name: "r1", Value: "1", Action: gate.OverwriteIfExists}, {Name: "r2", Value: "2"}},
		SetQuery: []policy.QueryParameter{{Name: "q", Value: "1"}}}
	got := render(&allowed, "/p", make([]byte, 0, 10))
	want := []step{{MetadataText, "decision_id", "D"}, {MetadataNumber, "ext_authz_duration", strings.Repeat("\x00", 8)}, {SetRequestHeader, "x-a", "1"},
		{RemoveRequestHeader, "x-b", ""}, {SetRequestHeader, ":path", "/p?q=1"}, {AddResponse, "r2", "2"}, {SetResponseIfPresent, "r1", "1"}}
	if diff := cmp.Diff(want, steps(t, got.Ops), cmp.AllowUnexported(step{})); diff != "" || got.Verdict != Allow || !got.Changes {
		t.Errorf("%+v\n%s", got, diff)
	}

	denied := render(&gate.Answer{DecisionID: "D", Status: 403, Set: []gate.HeaderOption{{Name: "x", Value: "1"}}, Body: "no\xff", Metadata: map[string]any{"k": "v"}}, "/", nil)
	if s := steps(t, denied.Ops); denied.Verdict != Deny || denied.Status != 403 || denied.Headers != 1 || len(s) != 3 || s[0].op != MetadataStruct || s[2].value != "no\uFFFD" {
		t.Errorf("%+v %q", denied, s)
	}

	for _, bad := range []gate.Answer{
		{Allow: true, Set: []gate.HeaderOption{{Name: "x", Value: "a\r\nb"}}},
		{Allow: true, Set: []gate.HeaderOption{{Name: "x y", Value: "1"}}},
		{Allow: true, Response: []gate.HeaderOption{{Name: "", Value: "1"}}},
		{Status: 200, Set: []gate.HeaderOption{{Name: "x", Value: "\x00"}}},
	} {
		if r := render(&bad, "/", nil); r.Verdict != Deny || r.Status != http.StatusInternalServerError {
			t.Errorf("%+v became %+v", bad, r)
		}
	}
}

// node is a folder with a gatehouse.yaml and a policy.
func node(t *testing.T, rego string) (file string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "gatehouse.yaml")
	put(t, filepath.Join(dir, "policy", "p.rego"), "package envoy.authz\n\n"+rego)
	put(t, file, "listen: {grpc: [\"127.0.0.1:1\"], admin: \"\"}\npolicy: {bundles: [{path: policy}], decision: envoy/authz/allow, timeout: 5s}\n")
	return file
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// program stands for Envoy's, which has the ABI's version in it.
func program(t *testing.T, abi string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "envoy")
	put(t, file, strings.Repeat("x", chunk-3)+"\x00"+abi+"\x00"+strings.Repeat("y", 3*chunk))
	return file
}

// said is what a module says to Envoy's operators.
type said struct {
	mu   sync.Mutex
	text string
}

func (s *said) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text += text + "\n"
}

func newModule(t *testing.T, abi string) (*Module, *said) {
	t.Helper()
	s := &said{}
	return New(Config{Version: "test", Log: zapcore.NewNopCore(), Say: s.say, Workers: 1, Executable: program(t, abi)}), s
}

func get(path string) *Raw {
	return &Raw{Protocol: "HTTP/1.1", Headers: gate.Headers{{Name: ":method", Value: "GET"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "a"}, {Name: ":scheme", Value: "http"}}}
}

const onlyYes = `default allow := false
allow if input.attributes.request.http.path == "/yes"
`

// TestNode: one node for all filters, from the first to the last of them.
func TestNode(t *testing.T) {
	m, _ := newModule(t, ABI)
	file := node(t, onlyYes)
	first, err := m.Open(file, "", false)
	if err != nil {
		t.Fatal(err)
	}
	second, err := m.Open(fmt.Sprintf(`{"config": %q, "context_extensions": {"a": "b"}}`, file), "", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*Filter{first, second} {
		if r := f.Decide(get("/yes"), nil); r.Verdict != Allow {
			t.Errorf("%+v", r)
		}
		if r := f.Decide(get("/no"), nil); r.Verdict != Deny || r.Status != 403 {
			t.Errorf("%+v", r)
		}
	}
	if _, err := m.Open(node(t, onlyYes), "", false); err == nil || !strings.Contains(err.Error(), "a node already") {
		t.Errorf("a second node: %v", err)
	}
	m.Close(first)
	if r := second.Decide(get("/yes"), nil); r.Verdict != Allow {
		t.Errorf("with one filter left: %+v", r)
	}
	m.Close(second)
	if r := second.Decide(get("/yes"), nil); r.Verdict != Deny || r.Status != http.StatusServiceUnavailable {
		t.Errorf("without a node: %+v", r)
	}
	again, err := m.Open(node(t, onlyYes), "", false) // another file, as there is no node any more
	if err != nil {
		t.Fatal(err)
	}
	m.Close(again)
}

// TestOpenRefuses what gatehouse serve refuses.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	m, _ := newModule(t, ABI)
	if _, err := m.Open(node(t, "allow if nobody\n"), "", false); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a broken policy: %v", err)
	}
	if _, err := m.Open(filepath.Join(t.TempDir(), "none.yaml"), "", false); err == nil {
		t.Error("no configuration")
	}
	if _, err := m.Open(node(t, onlyYes), "", true); err != nil {
		t.Errorf("validating: %v", err)
	}
}

// TestOtherEnvoys deny everything, and say why.
func TestOtherEnvoys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ abi, lacks, want string }{{"v0.1.0", "", "ABI v0.1.0"}, {"2.0", "", "ABI none"}, {ABI, "http_get_header", "no envoy_dynamic_module_callback_http_get_header"}} {
		m, said := newModule(t, c.abi)
		f, err := m.Open(node(t, onlyYes), c.lacks, false)
		if err != nil || f.Broken() == nil || !strings.Contains(said.text, c.want) {
			t.Fatalf("%v: %v, said %q", c, err, said.text)
		}
		if r := f.Decide(get("/yes"), nil); r.Verdict != Deny || r.Status != http.StatusInternalServerError {
			t.Errorf("%+v", r)
		}
		m.Close(f)
	}
	m, _ := newModule(t, "v0.9.0")
	f, err := m.Open(fmt.Sprintf(`{"config": %q, "any_envoy": true}`, node(t, onlyYes)), "", false)
	if err != nil || f.Broken() != nil {
		t.Fatal(err)
	}
	defer m.Close(f)
	if r := f.Decide(get("/yes"), nil); r.Verdict != Allow {
		t.Errorf("%+v", r)
	}
}

// TestReadsAChangedFileAgain: an update of Envoy's listeners is also one of gatehouse.yaml, where that has changed.
func TestReadsAChangedFileAgain(t *testing.T) {
	t.Parallel()
	m, _ := newModule(t, ABI)
	file := node(t, onlyYes)
	f, err := m.Open(file, "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(f)
	before := m.gate().View()
	text, _ := os.ReadFile(file)
	put(t, file, strings.Replace(string(text), "timeout: 5s", "timeout: 4s", 1))
	again, err := m.Open(file, "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(again)
	deadline := time.After(time.Minute)
	for m.gate().View().Settings == before.Settings {
		select {
		case <-deadline:
			t.Fatal("it was not read again")
		case <-time.After(time.Millisecond):
		}
	}
}

// TestTickets: an answer is taken once, and nobody is woken who has gone.
func TestTickets(t *testing.T) {
	m, _ := newModule(t, ABI)
	f, err := m.Open(node(t, onlyYes), "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(f)
	m.slowUntil.Store(time.Now().Add(time.Hour).UnixNano())
	for path, want := range map[string]Verdict{"/yes": Allow, "/no": Deny} {
		r := f.Decide(get(path), nil)
		if r.Verdict != Wait || m.tickets.waiting() != 1 {
			t.Fatalf("%+v", r)
		}
		woken := make(chan struct{})
		m.Start(r.Ticket, func() { close(woken) })
		<-woken
		if got := m.Take(r.Ticket); got.Verdict != want || m.tickets.waiting() != 0 {
			t.Errorf("%+v", got)
		}
		if got := m.Take(r.Ticket); got.Verdict != Deny || got.Status != http.StatusInternalServerError {
			t.Errorf("taken twice: %+v", got)
		}
	}
	r := f.Decide(get("/yes"), nil)
	m.Cancel(r.Ticket)
	m.Start(r.Ticket, func() { t.Error("woken, though it had gone before the start") })
	m.Cancel(r.Ticket)
	if got := m.Take(12345); got.Verdict != Deny {
		t.Errorf("%+v", got)
	}
}

// TestCancelled: when Cancel has returned nobody is woken, however the two meet.
func TestCancelled(t *testing.T) {
	m, _ := newModule(t, ABI)
	f, err := m.Open(node(t, onlyYes), "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(f)
	m.slowUntil.Store(time.Now().Add(time.Hour).UnixNano())
	var all sync.WaitGroup
	for range 500 {
		r := f.Decide(get("/yes"), nil)
		var mu sync.Mutex
		gone := false
		m.Start(r.Ticket, func() {
			mu.Lock()
			defer mu.Unlock()
			if gone {
				t.Error("woken, though it had gone")
			}
		})
		all.Go(func() {
			m.Cancel(r.Ticket)
			mu.Lock()
			gone = true
			mu.Unlock()
		})
	}
	all.Wait()
	if n := m.tickets.waiting(); n != 0 {
		t.Errorf("%d tickets are left", n)
	}
}

// TestTicketsAreBounded: who comes after too many is denied.
func TestTicketsAreBounded(t *testing.T) {
	t.Parallel()
	var all tickets
	for range maxTickets {
		if r := all.issue(&ticket{}, nil); r.Verdict != Wait {
			t.Fatalf("%+v", r)
		}
	}
	if r := all.issue(&ticket{}, nil); r.Verdict != Deny || r.Status != http.StatusServiceUnavailable {
		t.Errorf("%+v", r)
	}
}

// TestPanicsDeny: what panics denies.
func TestPanicsDeny(t *testing.T) {
	t.Parallel()
	m, _ := newModule(t, ABI)
	f := &Filter{module: m} // no settings
	m.serving.Store(nil)
	f.broken = nil
	one := &ticket{filter: f} // no gate
	if r := one.decide(context.Background()); r.Verdict != Deny || r.Status != http.StatusInternalServerError {
		t.Errorf("%+v", r)
	}
}

// TestSlow: after a decision that took long others decide for a while.
func TestSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		start := time.Now()
		m.took(start)
		if m.slow(time.Now()) {
			t.Error("nothing took long")
		}
		time.Sleep(2 * slowDecision)
		m.took(start)
		if !m.slow(time.Now()) {
			t.Error("it took long")
		}
		time.Sleep(slowFor + slowDecision)
		if m.slow(time.Now()) {
			t.Error("that is over")
		}
	})
}

// TestUnknownKeyWaits: a token whose key is not here yet is decided elsewhere, and leaves one entry in the log. Others are decided at once.
func TestUnknownKeyWaits(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var kid atomic.Pointer[string]
	kid.Store(new("old"))
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": %q, "x": %q}]}`, *kid.Load(), base64.RawURLEncoding.EncodeToString(public))
	}))
	defer keys.Close()
	m, _ := newModule(t, ABI)
	file := node(t, onlyYes)
	text, _ := os.ReadFile(file)
	put(t, file, string(text)+fmt.Sprintf("identity: {jwt: [{issuer: http://localhost/i, audiences: [a], keys: {url: %q}}]}\ndecision_log: {file: log.jsonl}\n", keys.URL))
	f, err := m.Open(file, "", false)
	if err != nil {
		t.Fatal(err)
	}
	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	with := func(kid string) *Raw {
		signed := part(map[string]any{"alg": "EdDSA", "kid": kid}) + "." + part(map[string]any{"iss": "http://localhost/i", "aud": "a", "sub": "x", "exp": time.Now().Unix() + 3600})
		raw := get("/yes")
		raw.Headers = append(raw.Headers, gate.Header{Name: "authorization", Value: "Bearer " + signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(signed)))})
		return raw
	}
	kid.Store(new("new"))
	if r := f.Decide(with("old"), nil); r.Verdict != Allow {
		t.Errorf("a known key: %+v", r)
	}
	var last Reply
	tries := 0
	for last.Verdict != Allow && tries < 200 { // at the very start nobody fetches yet, and there is nothing to wait for
		tries++
		r := f.Decide(with("new"), nil)
		if r.Verdict != Wait {
			t.Fatalf("an unknown key: %+v", r)
		}
		woken := make(chan struct{})
		m.Start(r.Ticket, func() { close(woken) })
		<-woken
		last = m.Take(r.Ticket)
	}
	if last.Verdict != Allow {
		t.Errorf("once its key is here: %+v", last)
	}
	m.Close(f) // which writes the log
	log, err := os.ReadFile(filepath.Join(filepath.Dir(file), "log.jsonl"))
	if n := strings.Count(string(log), "\n"); err != nil || n != 1+tries {
		t.Errorf("%d entries, want %d: %v", n, 1+tries, err)
	}
}
