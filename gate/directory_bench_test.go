package gate_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
)

// benchOffice is a directory of users in groups, nested four deep, who may read the documents that the outermost group may view.
func benchOffice(b *testing.B, users int) *directory.Snapshot {
	b.Helper()
	m, err := directory.ParseManifest("manifest.yaml", []byte(`model: {version: 3}
types:
  user: {}
  group:
    relations: {member: user | group#member}
  doc:
    relations: {owner: user, viewer: user | group#member}
    permissions: {can_read: viewer | owner}
`))
	if err != nil {
		b.Fatal(err)
	}
	build := directory.NewBuilder(m, directory.Limits{}, 2*users, 2*users)
	object := func(typ string, n int) directory.Ref {
		o := directory.Ref{Type: typ, ID: fmt.Sprint(typ, n)}
		if err := build.AddObject(directory.Object{Ref: o}); err != nil {
			b.Fatal(err)
		}
		return o
	}
	groups := make([]directory.Ref, users/10)
	for i := range groups {
		groups[i] = object("group", i)
	}
	people := make([]directory.Ref, users)
	for i := range people {
		people[i] = object("user", i)
	}
	docs := make([]directory.Ref, 100)
	for i := range docs {
		docs[i] = object("doc", i)
	}
	relate := func(object directory.Ref, relation string, subject directory.Ref, set string) {
		if err := build.AddRelation(directory.Relation{Object: object, Relation: relation, Subject: subject, SubjectRelation: set}); err != nil {
			b.Fatal(err)
		}
	}
	for i, p := range people {
		relate(groups[i%len(groups)], "member", p, "")
	}
	for i, g := range groups {
		if i > 0 {
			relate(groups[i/10], "member", g, "member")
		}
	}
	for _, d := range docs {
		relate(d, "viewer", groups[0], "member")
	}
	s, err := build.Finish(1)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkDirectory is a repeated decision of a policy that asks the directory beside one of the same policy that does not, in turn, while the
// directory changes a hundred times a second. ratio is what the first costs more.
func BenchmarkDirectory(b *testing.B) {
	const users = 5000
	office := benchOffice(b, users)
	for _, bench := range []struct {
		callers int
		logs    bool
	}{{1, false}, {1, true}, {users, false}, {users, true}} {
		b.Run(fmt.Sprintf("callers=%d/log=%v", bench.callers, bench.logs), func(b *testing.B) {
			both := [2]*gate.Gate{benchGate(b, `input.parsed_path[1] != ""`, bench.logs, office), benchGate(b, askRead, bench.logs, office)}
			requests := benchRequests(bench.callers)
			for _, req := range slices.Concat(requests, requests) { // the second time the log keeps what is the same each time
				for _, g := range both {
					if a := g.Check(b.Context(), req); !a.Allow {
						b.Fatal(a.Reason, a.Diagnostics.Cause)
					}
				}
			}
			stop := changing(b, office, users, both[:])
			defer stop()
			const block = 50
			var took [2][]float64
			var ratios []float64
			n := 0
			for b.Loop() {
				for i, g := range both {
					began := time.Now()
					for j := range block {
						if a := g.Check(b.Context(), requests[(n+j)%len(requests)]); !a.Allow {
							b.Fatal(a.Reason, a.Diagnostics.Cause)
						}
					}
					took[i] = append(took[i], float64(time.Since(began))/block)
				}
				ratios = append(ratios, took[1][len(ratios)]/took[0][len(ratios)])
				n += block
			}
			median := func(list []float64) float64 { slices.Sort(list); return list[len(list)/2] }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(took[0]), "ns/without")
			b.ReportMetric(median(took[1]), "ns/with")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

const askRead = `ds.check({"object_type": "doc", "object_id": input.parsed_path[1], "relation": "can_read", "subject_type": "user", "subject_id": input.identity.subject})`

func benchGate(b *testing.B, condition string, logs bool, office *directory.Snapshot) *gate.Gate {
	b.Helper()
	s := settings()
	if logs {
		dir := b.TempDir()
		log, err := decisionlog.New(decisionlog.Config{File: filepath.Join(dir, "decisions.log"), Dir: filepath.Join(dir, "spool")})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = log.Run(ctx) }() // goroutine: of a test, which a panic may end
		b.Cleanup(func() { cancel(); <-ended })
		s.Log = log
	}
	p := compile(b, "package envoy.authz\n\nallow if {\n\tinput.attributes.request.http.method == \"GET\"\n\tinput.identity.subject != \"\"\n\t"+condition+"\n}\n")
	return gatetest.Start(b, gate.Config{}, gatetest.With(b, s, p), func(v *gate.View) { v.Directory = office })
}

func benchRequests(callers int) []*gate.Request {
	requests := make([]*gate.Request, callers)
	for i := range requests {
		req := get(fmt.Sprint("/docs/doc", i%100))
		for h := range 20 {
			req.Headers = append(req.Headers, gate.Header{Name: fmt.Sprintf("x-custom-%d", h), Value: "some value"})
		}
		req.As = &identity.Identity{Type: "jwt", Subject: fmt.Sprint("user", i), Authenticated: true}
		requests[i] = req
	}
	return requests
}

// changing gives one user after the other a document of his own, a hundred times a second, until stop is called.
func changing(b *testing.B, is *directory.Snapshot, users int, gates []*gate.Gate) (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { // goroutine: of a test, which a panic may end
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			rel := directory.Relation{Object: directory.Ref{Type: "doc", ID: fmt.Sprint("doc", n%100)}, Relation: "owner", Subject: directory.Ref{Type: "user", ID: fmt.Sprint("user", n%users)}}
			next, err := is.Apply([]directory.Change{{SetRelation: &rel}})
			if err != nil {
				b.Error(err)
				return
			}
			is = next
			for _, g := range gates {
				_ = g.Publish(ctx, func(v *gate.View) { v.Directory = next })
			}
		}
	}()
	return func() { cancel(); <-ended }
}
