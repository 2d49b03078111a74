// Command bench-control measures how long a write at the control plane takes to be in force at the last of many edges, beside
// a bare gRPC stream that pushes as many bytes over TLS to as many clients. Control is a process of its own, the edges are the
// ends of it without a gate, all of them in this process, with their copies in memory (a real edge has a disk of its own).
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/control/follow"
	"gatehouse/directory"
)

var (
	edges  = flag.Int("edges", 1000, "how many edges")
	writes = flag.Int("writes", 200, "how many writes are measured")
	gap    = flag.Duration("gap", 50*time.Millisecond, "between two writes")
	dir    = flag.String("dir", "", "folder for control and the edges; default: one in /dev/shm")
	role   = flag.String("role", "", "for the processes that this one starts")
	listen = flag.String("listen", "127.0.0.1:0", "likewise")
)

func main() {
	flag.Parse()
	var err error
	switch *role {
	case "control":
		err = runControl()
	case "bare":
		err = runBare()
	default:
		err = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runControl() error {
	s, err := control.New(context.Background(), control.Config{Dir: *dir, Listen: *listen, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	fmt.Println(s.Addr(), s.Pin(), s.AdminToken())
	return s.Run(context.Background())
}

// process is one that this one has started.
type process struct {
	cmd   *exec.Cmd
	words []string // its first line
}

func start(role, dir, listen string) (*process, error) {
	p := &process{cmd: exec.Command(os.Args[0], "-role", role, "-dir", dir, "-listen", listen)}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	p.words = strings.Fields(line)
	return p, err
}

func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	_ = p.cmd.Wait()
}

// memory is what a process holds, in MB.
func (p *process) memory() string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return "?"
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kb int
	fmt.Sscan(rest, &kb)
	return fmt.Sprintf("%d MB", kb/1024)
}

// arrivals are counted until all edges have a revision.
type arrivals struct {
	mu   sync.Mutex
	have map[uint64]int
	want int
	done chan uint64
}

func (a *arrivals) add(revision uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.have[revision]++; a.have[revision] == a.want {
		delete(a.have, revision)
		a.done <- revision
	}
}

// wait returns when all edges have a revision.
func (a *arrivals) wait(revision uint64) {
	for r := range a.done {
		if r >= revision {
			return
		}
	}
}

func run() error {
	if *dir == "" {
		var err error
		if *dir, err = os.MkdirTemp("/dev/shm", "bench-control-*"); err != nil {
			return err
		}
		defer os.RemoveAll(*dir)
	}
	fmt.Printf("%d edges on loopback, %d writes of one relation, %v apart; ms from the call to the last edge\n\n", *edges, *writes, *gap)
	pushed, err := measureControl()
	if err != nil {
		return err
	}
	bare, err := measureBare()
	if err != nil {
		return err
	}
	show := func(name string, l []time.Duration) {
		ms := func(q float64) float64 { return float64(quantile(l, q).Microseconds()) / 1000 }
		fmt.Printf("%-28s p50 %7.1f  p90 %7.1f  p99 %7.1f\n", name, ms(0.5), ms(0.9), ms(0.99))
	}
	fmt.Println()
	show("control, in force at the last", pushed)
	show("bare gRPC, read by the last", bare)
	fmt.Printf("ratio                        p50 %7.2f  p99 %15.2f\n", float64(quantile(pushed, 0.5))/float64(quantile(bare, 0.5)), float64(quantile(pushed, 0.99))/float64(quantile(bare, 0.99)))
	return nil
}

func quantile(l []time.Duration, q float64) time.Duration {
	l = slices.Sorted(slices.Values(l))
	return l[min(len(l)-1, int(q*float64(len(l))))]
}

func measureControl() ([]time.Duration, error) {
	home := filepath.Join(*dir, "control")
	p, err := start("control", home, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer func() { p.kill() }()
	fmt.Println("control idle:", p.memory())
	url, pin := "https://"+p.words[0], p.words[1]
	c, err := cli.Connect(cli.Access{URL: url, Pin: pin, Token: p.words[2]})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	in := &arrivals{have: map[uint64]int{}, want: *edges, done: make(chan uint64, 10_000)}
	var connected atomic.Int64
	began := time.Now()
	for i := range *edges {
		t, err := cli.Ask(ctx, c.Admin.CreateEnrollment, &api.CreateEnrollmentRequest{Environment: control.DefaultEnvironment, Name: fmt.Sprint("edge-", i)})
		if err != nil {
			return nil, err
		}
		own := filepath.Join(*dir, fmt.Sprint("edge-", i))
		token := filepath.Join(*dir, fmt.Sprint("token-", i))
		if err := os.WriteFile(token, []byte(t.GetToken()), 0o600); err != nil {
			return nil, err
		}
		f, err := follow.Open(follow.Config{URL: url, Pin: pin, Dir: own, TokenFile: token, Name: fmt.Sprint("edge-", i)})
		if err != nil {
			return nil, err
		}
		running.Go(func() {
			f.Run(ctx, directory.Limits{}, func(s *directory.Snapshot) error { in.add(s.Revision()); return nil }, func() follow.State { return follow.State{} })
		})
		running.Go(func() {
			was := false
			for {
				select {
				case <-ctx.Done():
					return
				case <-f.Changed():
				}
				if is := f.Status().Connected; is != was {
					was = is
					if is {
						connected.Add(1)
					} else {
						connected.Add(-1)
					}
				}
			}
		})
	}
	all := func() {
		for connected.Load() < int64(*edges) {
			time.Sleep(5 * time.Millisecond)
		}
	}
	all()
	fmt.Printf("all edges enrolled and current after %.1f s; control %s\n", time.Since(began).Seconds(), p.memory())
	write := func(objects ...string) (uint64, error) {
		refs, relations, err := cli.Parse(objects, time.Time{})
		if err != nil {
			return 0, err
		}
		return c.Set(ctx, control.DefaultEnvironment, refs, relations)
	}
	users := []string{"group:eng"}
	for i := range *writes {
		users = append(users, fmt.Sprint("user:u", i))
	}
	revision, err := write(users...)
	if err != nil {
		return nil, err
	}
	in.wait(revision)
	var took []time.Duration
	for i := range *writes {
		at := time.Now()
		revision, err := write(fmt.Sprintf("group:eng#member@user:u%d", i))
		if err != nil {
			return nil, err
		}
		in.wait(revision)
		took = append(took, time.Since(at))
		time.Sleep(*gap)
	}
	fmt.Println("control after the writes:", p.memory())
	p.kill()
	for connected.Load() > 0 {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(3 * time.Second)
	at := time.Now()
	if p, err = start("control", home, p.words[0]); err != nil {
		return nil, err
	}
	ready := time.Since(at)
	all()
	fmt.Printf("killed, 3 s down: ready again after %.2f s, all edges current after %.1f s; control %s\n", ready.Seconds(), time.Since(at).Seconds(), p.memory())
	return took, nil
}
