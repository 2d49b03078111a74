package decisions_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/control/decisions"
)

const crashFolder, crashKey, crashFrom = "GATEHOUSE_TEST_DECISIONS", "GATEHOUSE_TEST_KEY", "GATEHOUSE_TEST_FROM"

// TestMain is the process that TestKilled kills, where its variable is set.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashFolder); dir != "" {
		crash(dir)
		return
	}
	os.Exit(m.Run())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// crash takes entries until it is killed, and says which are acknowledged.
func crash(dir string) {
	der, err := hex.DecodeString(os.Getenv(crashKey))
	must(err)
	key, err := x509.ParseECPrivateKey(der)
	must(err)
	from, err := strconv.Atoi(os.Getenv(crashFrom))
	must(err)
	s, err := decisions.Open(decisions.Config{Dir: dir, Signer: signer{key}, Rows: 120, MinFree: 1})
	must(err)
	e, err := s.Environment(prod)
	must(err)
	var mu sync.Mutex
	var wait sync.WaitGroup
	for i := range 3 {
		wait.Go(func() {
			for n := from + i*10; ; n += 30 {
				_, err := s.Add(context.Background(), prod, "edge", body(nothing{}, entries(n, n+10)...))
				must(err)
				mu.Lock()
				fmt.Println(n)
				mu.Unlock()
				if n%200 == 0 { // also while the chain is written for another reason
					must(e.SetRetention(context.Background(), decisions.Retention{Allow: 200 * 365 * 24 * time.Hour}, "test"))
				}
			}
		})
	}
	wait.Wait()
}

// nothing is a test that cannot fail.
type nothing struct{ testing.TB }

func (nothing) Helper()           {}
func (nothing) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// TestKilled kills a process that takes entries, again and again: what it acknowledged is there, once, and the chain holds.
func TestKilled(t *testing.T) {
	t.Parallel()
	key := newSigner(t)
	der, err := x509.MarshalECPrivateKey(key.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir, acknowledged, next := t.TempDir(), []int{}, 0
	for round := range killRounds {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), crashFolder+"="+dir, crashKey+"="+hex.EncodeToString(der), fmt.Sprint(crashFrom, "=", next))
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		wanted := 1 + rand.IntN(60)
		for in := bufio.NewScanner(out); in.Scan(); {
			n, err := strconv.Atoi(in.Text())
			if err != nil {
				t.Fatalf("%v in round %d", err, round)
			}
			acknowledged = append(acknowledged, n)
			next = max(next, n+60)
			if wanted--; wanted == 0 {
				_ = c.Process.Kill()
			}
		}
		_ = c.Wait() // it was killed
	}
	o := open(t, decisions.Config{Dir: dir, Signer: key, Rows: 120})
	seen := map[string]bool{}
	for _, r := range o.finds(decisions.Query{Limit: 1000}) {
		if seen[r.ID] {
			t.Errorf("twice: %s", r.ID)
		}
		seen[r.ID] = true
	}
	for _, n := range acknowledged {
		for i := n; i < n+10; i++ {
			if id := strings.Split(entry(i), `"`)[3]; !seen[id] {
				t.Fatalf("%s was acknowledged, and is not there", id)
			}
		}
		o.sends("edge", 0, entries(n, n+10)...)
	}
	o.Close()
	list, err := decisions.Verify(dir, attested(&key.PublicKey), nil)
	if err != nil || len(list) != 1 || len(list[0].Problems) > 0 || list[0].Segments == 0 {
		t.Errorf("%+v, %v", list[0], err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, prod, "*.tmp")); len(names) > 0 {
		t.Errorf("%v", names)
	}
}
