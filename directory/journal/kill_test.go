package journal_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"gatehouse/directory"
	"gatehouse/directory/journal"
)

// writerDir names the folder in which this test's binary writes until it is killed.
const writerDir = "GATEHOUSE_TEST_JOURNAL"

// batch is how many objects one write sets.
const batch = 5

// writeUntilKilled has several writers at once, and prints the number of each write that was acknowledged.
func writeUntilKilled(dir string) {
	with := config(dir)
	with.CompactAt = 20_000
	s, err := journal.Open(context.Background(), with)
	if err != nil {
		fmt.Println("cannot open:", err)
		os.Exit(1)
	}
	first := s.Snapshot().Stats().Objects / batch
	go s.Run(context.Background(), directory.Limits{}, func(*directory.Snapshot) error { return nil }) // goroutine: of a process that is killed
	var mu sync.Mutex
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for n := first + i; ; n += 8 {
				var changes []directory.Change
				for j := range batch {
					changes = append(changes, user(fmt.Sprintf("%d-%d", n, j)))
				}
				if _, err := s.Write(context.Background(), write(changes...)); err != nil {
					fmt.Println("cannot write:", err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(n)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
}

// TestKill kills a process that writes, at any moment, again and again: what it acknowledged is there, and of no write there is a part.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[int]bool{}
	for round := range killRounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var late *time.Timer
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatalf("round %d: %s", round, lines.Text())
			}
			acknowledged[n] = true
			if late == nil { // it writes: it has a moment left
				late = time.AfterFunc(rand.N(40*time.Millisecond), func() { _ = cmd.Process.Kill() })
			}
		}
		_ = cmd.Wait() // it was killed
		s := open(t, config(dir)).Snapshot()
		for n := range acknowledged {
			if _, found := s.Object(directory.Ref{Type: "user", ID: fmt.Sprintf("%d-0", n)}); !found {
				t.Fatalf("round %d: write %d was acknowledged and is not there", round, n)
			}
		}
		parts := map[string]int{}
		for o := range s.Objects("user") {
			var n, j int
			if _, err := fmt.Sscanf(o.ID, "%d-%d", &n, &j); err != nil {
				t.Fatal(err)
			}
			parts[strconv.Itoa(n)]++
		}
		for n, have := range parts {
			if have != batch {
				t.Fatalf("round %d: of write %s there are %d of %d objects", round, n, have, batch)
			}
		}
	}
	if len(acknowledged) < killRounds {
		t.Errorf("only %d writes were acknowledged", len(acknowledged))
	}
}
