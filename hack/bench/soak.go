package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	soakSwapEvery   = 3 * time.Second
	soakRotateEvery = 20 * time.Second
	soakGrace       = 3 * time.Second  // from the new key's first token until the old key goes
	soakTimeout     = 20 * time.Second // with one request
	soakFillTokens  = 8000
	soakFillFor     = 15 * time.Second // at most, for the tokens; and for the decisions
	soakSamples     = 60               // over the whole length
	soakKept        = 200              // tokens that are used again and again
	soakMinimum     = 30 * time.Second

	// What the last third of the time may have more than the second: a tenth, and so much.
	soakGrowth     = 1.1
	liveSlack      = 4 // MB
	memorySlack    = 8 // MB
	goroutineSlack = 10
)

// soak is mixed load on one Gatehouse for a long time, while its policy is swapped and its issuer's keys rotate. Nothing may grow,
// nothing may fail, and no answer may be of two policies.
type soak struct {
	bench
	*fixture
	server *server
	conn   *grpc.ClientConn
	ring   atomic.Pointer[keyring] // what callers sign with
	asked  [len(soakKinds)]atomic.Uint64
	swaps  int
	turns  int // of the keys
	points []soakPoint
}

// keyring is a key that is in force, and tokens that it has signed.
type keyring struct {
	fixture
	tokens []string
}

// soakPoint is one look at the server.
type soakPoint struct {
	live       float64 // MB that the last collection left, from the goal of the next
	anonymous  float64 // MB of memory that no file stands behind
	resident   float64 // MB, with the mapped pages of the spool and of the binary
	goroutines float64
}

// soakKinds are the kinds of requests, with how many of a hundred are of each.
var soakKinds = [...]struct {
	name  string
	share int
	allow bool
}{{"repeated", 55, true}, {"new", 25, true}, {"first sight of a token", 1, true}, {"by nobody", 5, false}, {"forged", 5, false}, {"malformed", 9, false}}

func (b bench) soak(ctx context.Context, out io.Writer, length time.Duration) error {
	if length < soakMinimum {
		return fmt.Errorf("-soak %s is too short to see a trend: at least %s", length, soakMinimum)
	}
	dir, err := os.MkdirTemp("", "gatehouse-soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &soak{bench: b}
	if err := s.start(ctx, dir); err != nil {
		return err
	}
	defer s.server.stop()
	defer s.conn.Close()
	if err := s.fill(ctx); err != nil {
		return fmt.Errorf("filling the caches: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	began := time.Now()
	if err := s.all(ctx, length); err != nil {
		return err
	}
	if time.Since(began) < length-time.Second {
		return errors.New("interrupted")
	}
	return s.verdict(out, length)
}

func (s *soak) start(ctx context.Context, dir string) (err error) {
	if s.fixture, err = newFixture(dir, shape{}); err != nil {
		return err
	}
	// The bundle is what swapIn lays out, and nothing beside it.
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "policy")), s.swap()); err != nil {
		return err
	}
	if err := s.rotateKey(s.key); err != nil {
		return err
	}
	if s.server, err = startGatehouse(ctx, s.gatehouse, dir); err != nil {
		return err
	}
	s.conn, err = dial(s.server.socket)
	return err
}

// fill shows so many tokens and decisions that the caches are full before the time begins: what grows later is no cache.
func (s *soak) fill(ctx context.Context) error {
	ring := s.ring.Load()
	tokens, err := ring.mint(soakKept, soakFillTokens)
	if err != nil {
		return err
	}
	sights, err := ring.firstSights(tokens)
	if err != nil {
		return err
	}
	fresh, err := ring.fresh()
	if err != nil {
		return err
	}
	for _, work := range []workload{sights, fresh} {
		if _, err := overGRPC(ctx, s.server, s.server.socket, s.callers, soakFillFor, work); err != nil {
			return err
		}
	}
	s.last.Store(max(s.last.Load(), ring.last.Load()) + soakFillTokens)
	return nil
}

// all runs everything until ctx ends or something fails.
func (s *soak) all(ctx context.Context, length time.Duration) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wait sync.WaitGroup
	keep := func(every time.Duration, do func(context.Context) error) {
		wait.Go(func() {
			for tick := time.NewTicker(every); ctx.Err() == nil; {
				select {
				case <-ctx.Done():
				case <-tick.C:
					if err := do(ctx); err != nil && ctx.Err() == nil {
						fail(err)
					}
				}
			}
		})
	}
	keep(soakSwapEvery, func(context.Context) error { return s.swap() })
	keep(soakRotateEvery, s.rotate)
	keep(length/soakSamples, s.sample)
	for range s.callers {
		wait.Go(func() {
			for ctx.Err() == nil {
				if err := s.requestOne(context.WithoutCancel(ctx)); err != nil { // the last one is answered too
					fail(err)
				}
			}
		})
	}
	wait.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// swap puts the next revision of the policy in, with its number in the rules and in the data.
func (s *soak) swap() error {
	s.swaps++
	headers := fmt.Sprintf(`"headers": {"x-rules": "%d", "x-data": data.revision}`, s.swaps)
	data := strings.TrimSuffix(s.shape.document(), "}") + fmt.Sprintf(`,"revision":"%d"}`, s.swaps)
	return swapIn(filepath.Join(s.dir, "policy"), s.swaps, map[string][]byte{
		"policy.rego": []byte(strings.ReplaceAll(rego, `"headers": {"x-tenant": "t1"}`, headers)),
		"data.json":   []byte(data),
	})
}

// rotate publishes a new key beside the old, has tokens signed with the new once it is in force, and then takes the old away.
func (s *soak) rotate(ctx context.Context) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	s.turns++
	old := s.ring.Load().key
	if err := s.publish(old, key); err != nil {
		return err
	}
	if err := s.awaitKeys(ctx, 2); err != nil {
		return err
	}
	if err := s.rotateKey(key); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(soakGrace):
	}
	return errors.Join(s.publish(key), s.awaitKeys(ctx, 1))
}

// rotateKey has callers sign with a key from now on.
func (s *soak) rotateKey(key *rsa.PrivateKey) error {
	r := &keyring{fixture: fixture{shape: s.shape, key: key}}
	var err error
	r.tokens, err = r.mint(0, soakKept)
	s.ring.Store(r)
	return err
}

func (s *soak) publish(keys ...*rsa.PrivateKey) error {
	file := filepath.Join(s.dir, "jwks.json")
	draft := file + ".draft"
	return errors.Join(os.WriteFile(draft, []byte(jwks(keys...)), 0o644), os.Rename(draft, file))
}

func (s *soak) awaitKeys(ctx context.Context, want float64) error {
	deadline := time.Now().Add(time.Minute)
	for {
		m, err := s.server.metrics(ctx)
		if err != nil {
			return err
		}
		if n, _ := m.sum("gatehouse_identity_keys"); n == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("a minute after jwks.json changed there are not %g keys in force", want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sample takes a sample of the server and fails where something was lost or a hit of the memo was wrong.
func (s *soak) sample(ctx context.Context) error {
	m, err := s.server.metrics(ctx)
	if err != nil {
		return err
	}
	for name, v := range m {
		if v > 0 && (strings.HasPrefix(name, "gatehouse_decision_log_dropped_total") || strings.HasPrefix(name, "gatehouse_memo_mismatches_total")) {
			return fmt.Errorf("%s is %g", name, v)
		}
	}
	goroutines, _ := m.sum("go_goroutines")
	goal, _ := m.sum("go_memstats_next_gc_bytes")
	percent, _ := m.sum("go_gc_gogc_percent")
	s.points = append(s.points, soakPoint{live: goal / (1 + percent/100) / 1e6, anonymous: float64(s.server.memory("RssAnon:")) / 1e6,
		resident: float64(s.server.memory("VmRSS:")) / 1e6, goroutines: goroutines})
	return s.server.truncateLog()
}

// requestOne makes one request of a kind that chance chooses, and holds the answer to what it must be.
func (s *soak) requestOne(ctx context.Context) error {
	kind, dice := 0, mathrand.IntN(100)
	for dice >= soakKinds[kind].share {
		dice -= soakKinds[kind].share
		kind++
	}
	wire, err := s.request(kind)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, soakTimeout)
	defer cancel()
	var reply []byte
	if err := s.conn.Invoke(ctx, checkMethod, wire, &reply); err != nil {
		return fmt.Errorf("%s: %w", soakKinds[kind].name, err)
	}
	s.asked[kind].Add(1)
	var answer authv3.CheckResponse
	if err := proto.Unmarshal(reply, &answer); err != nil {
		return fmt.Errorf("%s: the answer does not parse: %w", soakKinds[kind].name, err)
	}
	if allow := answer.GetStatus().GetCode() == 0; allow != soakKinds[kind].allow {
		return fmt.Errorf("%s: allowed is %t: %v", soakKinds[kind].name, allow, &answer)
	}
	return ofOnePolicy(&answer)
}

// ofOnePolicy fails where rules and data of an allow are of different revisions.
func ofOnePolicy(answer *authv3.CheckResponse) error {
	seen := map[string]string{}
	for _, h := range answer.GetOkResponse().GetHeaders() {
		seen[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	if seen["x-rules"] != seen["x-data"] || answer.GetOkResponse() != nil && seen["x-rules"] == "" {
		return fmt.Errorf("not an answer of one policy: %v", answer)
	}
	return nil
}

func (s *soak) request(kind int) ([]byte, error) {
	ring := s.ring.Load()
	n := mathrand.IntN(len(ring.tokens))
	token, path := ring.tokens[n], fmt.Sprintf("/orders/%d", mathrand.IntN(paths))
	var err error
	switch soakKinds[kind].name {
	case "new":
		path = fmt.Sprintf("/users/%s/orders/%08d", userName(n), s.last.Add(1))
	case "first sight of a token":
		token, err = ring.token(soakKept + int(s.last.Add(1)))
	case "by nobody":
		token = ""
	case "forged":
		at := strings.LastIndexByte(token, '.') + 5
		token = token[:at] + flip(token[at]) + token[at+1:]
	}
	if err != nil {
		return nil, err
	}
	wire, err := ring.message(token, path)
	if soakKinds[kind].name == "malformed" {
		wire = corrupt(wire)
	}
	return wire, err
}

func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

// corrupt makes a message that does not parse, or whose path no route takes.
func corrupt(wire []byte) []byte {
	switch mathrand.IntN(3) {
	case 0:
		return wire[:len(wire)-1-mathrand.IntN(len(wire)/2)] // the outermost length does not hold any more
	case 1:
		return append(bytes.Clone(wire), 0xff)
	}
	return bytes.ReplaceAll(wire, []byte("/orders/"), []byte("/or%2fe/"))
}

// verdict prints what was seen, and is an error where something grew.
func (s *soak) verdict(out io.Writer, length time.Duration) error {
	fmt.Fprintf(out, "%s\n%s, %d callers, %d swaps of the policy, %d rotations of the key; no error, no mixed answer.\nrequests:", machine(), length, s.callers, s.swaps-1, s.turns)
	for i := range soakKinds {
		fmt.Fprintf(out, " %d %s", s.asked[i].Load(), soakKinds[i].name)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "medians of a tenth of the time\tMB live\tMB without files\tMB resident\tgoroutines\t")
	for tenth := range 10 {
		p := s.points[len(s.points)*tenth/10 : len(s.points)*(tenth+1)/10]
		fmt.Fprintf(w, "%d\t%.1f\t%.1f\t%.1f\t%.0f\t\n", tenth+1, typical(p, live), typical(p, anonymous), typical(p, resident), typical(p, goroutines))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	third := len(s.points) / 3
	second, last := s.points[third:2*third], s.points[2*third:]
	var errs []error
	for _, what := range []struct {
		name  string
		get   func(soakPoint) float64
		slack float64
	}{{"live memory", live, liveSlack}, {"memory", anonymous, memorySlack}, {"the number of goroutines", goroutines, goroutineSlack}} {
		if was, is := typical(second, what.get), typical(last, what.get); is > was*soakGrowth+what.slack {
			errs = append(errs, fmt.Errorf("%s grows: %.1f in the second third of the time, %.1f in the last", what.name, was, is))
		}
	}
	return errors.Join(errs...)
}

func live(p soakPoint) float64       { return p.live }
func anonymous(p soakPoint) float64  { return p.anonymous }
func resident(p soakPoint) float64   { return p.resident }
func goroutines(p soakPoint) float64 { return p.goroutines }

// typical is the median of a figure.
func typical(points []soakPoint, get func(soakPoint) float64) float64 {
	values := make([]float64, len(points))
	for i, p := range points {
		values[i] = get(p)
	}
	return middle(values)
}
