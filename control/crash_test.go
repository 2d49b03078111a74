package control_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/judge"
)

// asControl names the folder of a control that this program serves instead of running tests, so that a test can kill it.
const asControl = "GATEHOUSE_TEST_CONTROL"

func TestMain(m *testing.M) {
	judge.Main()
	if dir := os.Getenv(asControl); dir != "" {
		s, err := control.New(context.Background(), control.Config{Dir: dir, Listen: os.Getenv("GATEHOUSE_TEST_LISTEN"), Logger: zap.NewNop()})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Printf("%s %s %s\n", s.Addr(), s.Pin(), s.AdminToken())
		if err := s.Run(context.Background()); err != nil {
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// process is a control in a process of its own.
type process struct {
	cmd                *exec.Cmd
	address, pin, text string
}

func spawn(t *testing.T, dir, listen string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], "-test.run=^$")}
	p.cmd.Env = append(os.Environ(), asControl+"="+dir, "GATEHOUSE_TEST_LISTEN="+listen)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("control did not start: %v", err)
	}
	p.address, line, _ = strings.Cut(strings.TrimRight(line, "\n"), " ")
	p.pin, p.text, _ = strings.Cut(line, " ")
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	_ = p.cmd.Wait()
}

// kills is how often TestKilled kills control.
const kills = 20

// TestKilled: control is killed again and again while clients write. What was acknowledged is there, a write is whole or
// not there at all, the log has no gap, and the edges, which go on deciding, end with control's directory.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	p := spawn(t, dir, "127.0.0.1:0")
	defer func() { p.kill() }()
	ca := filepath.Join(dir, control.AuthorityFile)
	c := clientsOf(t, "https://"+p.address, ca, p.text)
	enroll := func(name string) string {
		return ask(t, c.CreateEnrollment, &api.CreateEnrollmentRequest{Environment: prod, Name: name}).GetToken()
	}
	edges := []*edge{follows(t, "https://"+p.address, p.pin, t.TempDir(), enroll("one")), follows(t, "https://"+p.address, p.pin, t.TempDir(), enroll("two"))}
	for _, e := range edges {
		e.has(1)
	}
	acknowledged := map[string]bool{}
	epoch := ""
	for round := range kills {
		var mu sync.Mutex
		var writers sync.WaitGroup
		began := make(chan struct{}, 4*64)
		ctx, stop := context.WithCancel(t.Context())
		for w := range 4 {
			writers.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					id := fmt.Sprintf("r%d-w%d-%d", round, w, i)
					// A write of three: all of them or none.
					out, err := c.SetObjects(ctx, connect.NewRequest(&api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{user(id + "-a"), user(id + "-b"), user(id + "-c")}}))
					if err != nil {
						return
					}
					mu.Lock()
					acknowledged[id], epoch = true, out.Msg.GetEpoch()
					mu.Unlock()
					select {
					case began <- struct{}{}:
					default:
					}
				}
			})
		}
		for range 3 + rand.IntN(12) {
			<-began
		}
		p.kill()
		stop()
		writers.Wait()
		for _, e := range edges { // still there, and something to decide with
			if e.snapshot() == nil {
				t.Fatal("an edge lost its directory")
			}
		}
		p = spawn(t, dir, p.address)
	}
	users := map[string]bool{}
	var revision uint64
	for token := ""; ; {
		page := ask(t, c.ListObjects, &api.ListObjectsRequest{Environment: prod, Type: "user", PageSize: 1000, PageToken: token})
		for _, o := range page.GetObjects() {
			users[o.GetId()] = true
		}
		revision = page.GetRevision()
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	for id := range acknowledged {
		if !users[id+"-a"] {
			t.Errorf("%s was acknowledged and is lost", id)
		}
	}
	for u := range users {
		base := u[:len(u)-2]
		if !users[base+"-a"] || !users[base+"-b"] || !users[base+"-c"] {
			t.Errorf("a part of the write %s is there", base)
		}
	}
	expect := revision
	for before := uint64(0); ; {
		page := ask(t, c.ListChanges, &api.ListChangesRequest{Environment: prod, PageSize: 200, BeforeRevision: before})
		for _, x := range page.GetChanges() {
			if x.GetRevision() != expect || x.GetEpoch() != epoch && x.GetRevision() > 1 {
				t.Fatalf("the log has revision %d of epoch %s; want %d of %s", x.GetRevision(), x.GetEpoch(), expect, epoch)
			}
			expect--
		}
		if before = page.GetNextBeforeRevision(); before == 0 {
			break
		}
	}
	if expect != 0 {
		t.Errorf("the log begins with revision %d", expect+1)
	}
	out := ask(t, c.ListEnvironments, &api.ListEnvironmentsRequest{})
	for _, e := range edges {
		e.has(revision)
		if d := e.snapshot().Digest(); d != out.GetEnvironments()[0].GetDigest() {
			t.Errorf("the edge has the digest %s, and control %s", d, out.GetEnvironments()[0].GetDigest())
		}
		if got := e.snapshot().Stats().Objects; got != len(users) {
			t.Errorf("%d users at the edge, %d at control", got, len(users))
		}
	}
	t.Logf("%d writes acknowledged, revision %d after %d kills", len(acknowledged), revision, kills)
}

// proxy passes connections on, and can cut them.
type proxy struct {
	net.Listener
	to string

	mu    sync.Mutex
	open  map[net.Conn]bool
	after int // bytes to the edge after which a connection is cut; 0: never
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to, open: map[net.Conn]bool{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.pass(c) })
		}
	})
	t.Cleanup(func() { l.Close(); p.cut(); running.Wait() })
	return p
}

func (p *proxy) pass(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer up.Close()
	p.mu.Lock()
	p.open[c], p.open[up] = true, true
	after := p.after
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, c)
		delete(p.open, up)
	}()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(up, c); up.Close() })
	if after > 0 {
		_, _ = io.CopyN(c, up, int64(after))
	} else {
		_, _ = io.Copy(c, up)
	}
	c.Close()
	up.Close()
	both.Wait()
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

func (p *proxy) cutAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.after = n
}

// TestRandomCuts: random changes, a stream that is cut at random bytes, an edge that restarts at random: in the end it has
// control's directory, and what it put in force on the way was always one that control had.
func TestRandomCuts(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	p := newProxy(t, s.Addr().String())
	dir := t.TempDir()
	e := follows(t, "https://"+p.Addr().String(), s.Pin(), dir, s.enrollment(prod, "one"))
	e.has(1)
	r := rand.New(rand.NewPCG(1, 2))
	digests := map[uint64]string{}
	note := func() {
		x := ask(t, c.ListEnvironments, &api.ListEnvironmentsRequest{}).GetEnvironments()[0]
		digests[x.GetRevision()] = x.GetDigest()
	}
	var revision uint64
	const groups, people = 5, 30
	for round := range 12 {
		p.cutAfter([]int{0, 2500 + r.IntN(4000)}[round%2])
		for range 15 {
			u, g := fmt.Sprint("u", r.IntN(people)), fmt.Sprint("g", r.IntN(groups))
			switch r.IntN(5) {
			case 0, 1:
				revision = ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{{Type: "user", Id: u, DisplayName: fmt.Sprint(r.IntN(9))}, {Type: "group", Id: g}}}).GetRevision()
			case 2:
				revision = ask(t, c.DeleteObjects, &api.DeleteObjectsRequest{Environment: prod, Objects: []*api.Ref{{Type: "user", Id: u}}}).GetRevision()
			default:
				ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{user(u), {Type: "group", Id: g}}})
				revision = ask(t, c.SetRelations, &api.SetRelationsRequest{Environment: prod, Relations: []*api.Relation{member(g, u)}}).GetRevision()
			}
			note()
			if r.IntN(8) == 0 {
				p.cut()
			}
		}
		if r.IntN(3) == 0 {
			e.stop()
			before := e.snapshot()
			e = follows(t, "https://"+p.Addr().String(), s.Pin(), dir, "")
			if got := e.snapshot(); got.Revision() != before.Revision() || got.Digest() != before.Digest() {
				t.Fatalf("after its restart the edge has revision %d, and had %d", got.Revision(), before.Revision())
			}
		}
		if got := e.snapshot(); digests[got.Revision()] != "" && digests[got.Revision()] != got.Digest() {
			t.Fatalf("revision %d is another one at the edge", got.Revision())
		}
	}
	p.cutAfter(0)
	p.cut()
	e.has(revision)
	if got := e.snapshot().Digest(); got != digests[revision] {
		t.Errorf("digest %s at the edge, %s at control", got, digests[revision])
	}
}
