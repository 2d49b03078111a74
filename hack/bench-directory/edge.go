package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"gatehouse/children"
	"gatehouse/directory"
	"gatehouse/envoy/sandbox"
	"gatehouse/identity/apikey"
)

// What is measured with -edge: examples/flask-orders behind the real Envoy, its own policy and manifest, and in the place of its directory one of a
// million users. Each answer is held against what the world says by its own arithmetic.
const (
	callers  = 1000 // random users with a token; minting one takes about a millisecond
	requests = 6000 // of each kind
	workers  = 4
	flips    = 5
)

// node is one Gatehouse beside the example, behind one Envoy.
type node struct {
	*sandbox.Sandbox
	gatehouse *sandbox.Process
	took      time.Duration // from its start to ready
}

// edge runs the example on its own directory, then on the world's, and prints both.
func edge(scale float64, root, gatehouse string) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	if gatehouse, err = filepath.Abs(gatehouse); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gatehouse-edge-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	e := &edgeBench{world: newWorld(scale), root: root, binary: gatehouse, dir: dir}
	for _, step := range []func(context.Context) error{e.small, e.large, e.owned} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return e.print()
}

type edgeBench struct {
	world             *world
	root, binary, dir string
	rows              [][3]string // what, with the example's own directory, with the world
	wrong, asked      atomic.Int64
	content           directory.Stats

	mu    sync.Mutex
	notes []string // guarded by mu
}

func (e *edgeBench) row(what, small, large string) {
	e.rows = append(e.rows, [3]string{what, small, large})
}

func (e *edgeBench) note(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notes = append(e.notes, text)
}

// worldFile is the snapshot of the world.
const worldFile = "people.snapshot"

// start runs the example with the directory at file. With a key the node owns it, and who has the key may write.
func (e *edgeBench) start(ctx context.Context, name, file string, key *apikey.Key) (*node, error) {
	grpc, err := children.FreePort()
	if err != nil {
		return nil, err
	}
	admin, err := children.FreePort()
	if err != nil {
		return nil, err
	}
	at := func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
	work := filepath.Join(e.dir, name)
	s, err := sandbox.Start(ctx, sandbox.Config{Root: e.root, WorkDir: work, Authz: at(grpc), LongDeadlines: true})
	if err != nil {
		return nil, err
	}
	n := &node{Sandbox: s}
	text, err := os.ReadFile(filepath.Join(e.root, "examples", "flask-orders", "gatehouse.yaml"))
	if err != nil {
		return n, err
	}
	config := strings.NewReplacer(at(9191), at(grpc), at(9192), at(admin), "file: ./directory ", "file: "+file+" ").Replace(string(text))
	if key != nil {
		config = owns(config, file)
		if err := os.WriteFile(filepath.Join(work, "keys.yaml"), key.YAML(), 0o600); err != nil {
			return n, err
		}
	}
	if err := os.WriteFile(filepath.Join(work, "gatehouse.yaml"), []byte(sandbox.LongDeadlines(config)), 0o644); err != nil {
		return n, err
	}
	began := time.Now()
	if n.gatehouse, err = sandbox.Run(filepath.Join(e.dir, name+"-gatehouse"), "gatehouse", work, []string{e.binary, "serve", "--config", "gatehouse.yaml"}); err != nil {
		return n, err
	}
	limit, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	err = n.gatehouse.Ready(limit, "http://"+at(admin)+"/readyz")
	n.took = time.Since(began)
	return n, err
}

func (n *node) stop() error {
	var err error
	if n.gatehouse != nil {
		_, err = n.gatehouse.Stop()
	}
	return errors.Join(err, n.Close())
}

// call is a request with its answer by the world's own arithmetic.
type call struct {
	token, path string
	allow       bool
}

// ask sends calls from several callers at once, counts answers that are wrong, and says what the node's CPU is per decision.
func (e *edgeBench) ask(ctx context.Context, n *node, calls []call) (cpu time.Duration, err error) {
	before := n.gatehouse.CPU()
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range workers {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < len(calls); i = int(next.Add(1)) - 1 {
				if err := e.one(ctx, n, calls[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = group.Wait()
	return (n.gatehouse.CPU() - before) / time.Duration(len(calls)), err
}

func (e *edgeBench) one(ctx context.Context, n *node, c call) error {
	answer, err := n.Do(ctx, sandbox.Call{Path: c.path, Token: c.token})
	if err != nil {
		return err
	}
	e.asked.Add(1)
	// The application has six orders and does not know the others: 404 is its answer to what was let through.
	if allowed := answer.Status == http.StatusOK || answer.Status == http.StatusNotFound; allowed != c.allow || !allowed && answer.Status != http.StatusForbidden {
		if e.wrong.Add(1) < 5 {
			e.note(fmt.Sprintf("wrong: GET %s is %d %s, allowed should be %v", c.path, answer.Status, answer.Reason(), c.allow))
		}
	}
	return nil
}

// small is the example as it is.
func (e *edgeBench) small(ctx context.Context) error {
	n, err := e.start(ctx, "small", "./directory", nil)
	if err == nil {
		err = e.measureSmall(ctx, n)
	}
	if n != nil {
		err = errors.Join(err, n.stop())
	}
	return err
}

func (e *edgeBench) measureSmall(ctx context.Context, n *node) error {
	owners := map[int]string{1: "alice", 2: "alice", 3: "bob", 4: "bob", 5: "carol", 6: "carol"}
	users := []string{"alice", "bob", "carol"}
	var repeated, fresh []call
	tokens := map[string]string{}
	for _, u := range users {
		tokens[u] = n.Token(u)
	}
	for i := range requests {
		u, order := users[i%len(users)], i/len(users)%6+1
		repeated = append(repeated, call{tokens[u], orderPath(order), owners[order] == u})
		fresh = append(fresh, call{tokens[u], orderPath(1000 + i), false})
	}
	if _, err := e.ask(ctx, n, repeated[:100]); err != nil {
		return err
	}
	again, err := e.ask(ctx, n, repeated)
	if err != nil {
		return err
	}
	once, err := e.ask(ctx, n, fresh)
	if err != nil {
		return err
	}
	e.row("start to ready", seconds(n.took), "")
	e.row("resident, after that", megabytes(n.gatehouse.Status("VmRSS")), "")
	e.row("CPU per decision, repeated", micro(again), "")
	e.row("CPU per decision, each another", micro(once), "")
	return e.smallFlips(ctx, n)
}

// large is the example with the world for its directory.
func (e *edgeBench) large(ctx context.Context) error {
	snapshot, err := e.build()
	if err != nil {
		return err
	}
	file := filepath.Join(e.dir, worldFile)
	if _, err := put(snapshot, file); err != nil {
		return err
	}
	n, err := e.start(ctx, "large", file, nil)
	if err == nil {
		err = e.measureLarge(ctx, n, snapshot, file)
	}
	if n != nil {
		err = errors.Join(err, n.stop())
	}
	return err
}

func (e *edgeBench) measureLarge(ctx context.Context, n *node, snapshot *directory.Snapshot, file string) error {
	e.rows[0][2], e.rows[1][2] = seconds(n.took), megabytes(n.gatehouse.Status("VmRSS"))
	r := rand.New(rand.NewPCG(3, 4))
	users := make([]int, callers)
	tokens := make([]string, callers)
	var first, repeated, fresh []call
	for i := range users {
		users[i] = r.IntN(e.world.users)
		tokens[i] = n.Token(user(users[i]).ID)
		first = append(first, call{tokens[i], orderPath(0), false}) // there is no order 0; the token is verified, and known from then on
	}
	draw := func() call {
		i := r.IntN(callers)
		order := r.IntN(e.world.resources)
		if r.IntN(2) == 0 { // one that a group of hers may see, perhaps
			order = 2 * (e.world.top(e.world.groupsOf(users[i])[0]) + e.world.levels[1]*r.IntN(e.world.resources/2/e.world.levels[1]))
		}
		return call{tokens[i], orderPath(order + 1), e.allowed(users[i], order)}
	}
	for range requests {
		fresh = append(fresh, draw())
	}
	for i := range requests {
		repeated = append(repeated, fresh[i%18])
	}
	if _, err := e.ask(ctx, n, first); err != nil {
		return err
	}
	once, err := e.ask(ctx, n, fresh)
	if err != nil {
		return err
	}
	again, err := e.ask(ctx, n, repeated)
	if err != nil {
		return err
	}
	e.rows[2][2], e.rows[3][2] = micro(again), micro(once)
	allowed := 0
	for _, c := range fresh {
		if c.allow {
			allowed++
		}
	}
	e.note(fmt.Sprintf("%d of %d requests that were each another were allowed, to owners or through groups", allowed, requests))

	// Relations come while others ask: somebody who is nobody's caller gets to read an order.
	load, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	calls := make(chan call)
	go func() { done <- e.keepAsking(load, n, calls) }()
	err = e.change(ctx, n, snapshot, file, draw, calls)
	stop()
	if problem := <-done; err == nil && !errors.Is(problem, context.Canceled) {
		err = problem
	}
	e.row("resident, after the changes", "", megabytes(n.gatehouse.Status("VmRSS")))
	e.row("resident at most", "", megabytes(n.gatehouse.Status("VmHWM")))
	return err
}

// keepAsking asks what comes, until ctx ends.
func (e *edgeBench) keepAsking(ctx context.Context, n *node, calls <-chan call) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-calls:
			if err := e.one(ctx, n, c); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// change adds relations one by one, each in a file of its own of everything, and measures until the decision is another. Between the questions
// about it, a call of the load is asked.
func (e *edgeBench) change(ctx context.Context, n *node, s *directory.Snapshot, file string, draw func() call, calls chan<- call) error {
	var took, wrote []time.Duration
	for i := range flips {
		u, order := i*(e.world.users/flips)+17, i*(e.world.resources/flips)+1000-1 // such an order no group may see
		if e.allowed(u, order) {
			return fmt.Errorf("user %d may read order %d already", u, order)
		}
		c := call{token: n.Token(user(u).ID), path: orderPath(order + 1)}
		if err := e.one(ctx, n, c); err != nil {
			return err
		}
		change := added(u, order)
		var err error
		if s, err = s.Apply([]directory.Change{{SetRelation: &change}}); err != nil {
			return err
		}
		began := time.Now()
		if err := write(s, file+".draft"); err != nil {
			return err
		}
		wrote = append(wrote, time.Since(began))
		began = time.Now()
		if err := os.Rename(file+".draft", file); err != nil {
			return err
		}
		d, err := n.until(ctx, c, began, func() {
			select {
			case calls <- draw():
			case <-time.After(time.Millisecond): // the load is busy
			}
		}, http.StatusNotFound)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	slices.Sort(wrote)
	e.row("write the changed file, all of it", "", seconds(wrote[len(wrote)/2]))
	e.row("all of a file changed to decision flipped, median", "", seconds(took[len(took)/2]))
	e.row("all of a file changed to decision flipped, slowest", "", seconds(took[len(took)-1]))
	return nil
}

// allowed is what the world says of a user and an order: the owner, or in a group, or in one below it, that may see the order.
func (e *edgeBench) allowed(u, order int) bool {
	w := e.world
	if w.owner(order) == u {
		return true
	}
	if !w.shown(order) {
		return false
	}
	for _, g := range w.groupsOf(u) {
		for ; g >= 0; g = w.parent(g) {
			if g == w.viewers(order) {
				return true
			}
		}
	}
	return false
}

// build makes a directory of the world by the example's own manifest: its resources are orders, and who may see one is its reader.
func (e *edgeBench) build() (*directory.Snapshot, error) {
	text, err := os.ReadFile(filepath.Join(e.root, "examples", "flask-orders", "directory", "manifest.yaml"))
	if err != nil {
		return nil, err
	}
	m, err := directory.ParseManifest("manifest.yaml", text)
	if err != nil {
		return nil, err
	}
	b := directory.NewBuilder(m, directory.Limits{}, e.world.users+e.world.groups+e.world.resources, 4*e.world.users)
	for o := range e.objects() {
		if err := b.AddObject(o); err != nil {
			return nil, err
		}
	}
	for r := range e.world.relations() {
		switch {
		case r.Relation == "identifier", r.Relation == "parent", r.Relation == "banned", r.Relation == "viewer" && r.SubjectRelation == "":
			continue
		case r.Relation == "viewer":
			r.Relation = "reader"
		}
		if r.Object.Type == "resource" {
			r.Object = asOrder(r.Object)
		}
		if err := b.AddRelation(r); err != nil {
			return nil, err
		}
	}
	if err := b.AddRelation(relation(directory.Ref{Type: "role", ID: "customer"}, "member", everyone, "member")); err != nil {
		return nil, err
	}
	s, err := b.Finish(1)
	if err == nil {
		e.content = s.Stats()
	}
	return s, err
}

func (e *edgeBench) objects() iter.Seq[directory.Object] {
	return func(yield func(directory.Object) bool) {
		for o := range e.world.objects() {
			if o.Type == "identity" {
				continue
			}
			if o.Type == "resource" {
				o.Ref = asOrder(o.Ref)
			}
			if !yield(o) {
				return
			}
		}
		yield(directory.Object{Ref: directory.Ref{Type: "role", ID: "customer"}})
	}
}

// asOrder is the order that a resource stands for. Orders count from one.
func asOrder(r directory.Ref) directory.Ref {
	number, _ := strconv.Atoi(strings.TrimPrefix(r.ID, "file-")) // as resource writes it
	return directory.Ref{Type: "order", ID: strconv.Itoa(number + 1)}
}

func orderPath(order int) string { return "/orders/" + strconv.Itoa(order) }

// put writes a snapshot in the place of another one.
func put(s *directory.Snapshot, file string) (time.Duration, error) {
	began := time.Now()
	err := write(s, file+".draft")
	return time.Since(began), errors.Join(err, os.Rename(file+".draft", file))
}

func write(s *directory.Snapshot, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = s.WriteTo(f)
	return errors.Join(err, f.Close())
}

func (e *edgeBench) print() error {
	fmt.Printf("%s\n%d objects, %d relations beside examples/flask-orders, its policy and its manifest, behind Envoy\n\n", machine(), e.content.Objects, e.content.Relations)
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "measure\tthe example's directory\t%d users\t\n", e.world.users)
	for _, r := range e.rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t\n", r[0], r[1], r[2])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Printf("\n%d of %d answers wrong\n", e.wrong.Load(), e.asked.Load())
	for _, note := range e.notes {
		fmt.Println(note)
	}
	if e.wrong.Load() > 0 {
		return errors.New("answers were wrong")
	}
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
func micro(d time.Duration) string   { return fmt.Sprintf("%d us", d.Microseconds()) }
func megabytes(n int64) string       { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
