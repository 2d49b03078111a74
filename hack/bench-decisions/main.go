// Command bench-decisions measures how fast control takes decisions and finds them: package control/decisions, without the network. It prints what make
// bench-decisions shows.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"

	"gatehouse/control/decisions"
)

const (
	environment = "default/prod"
	edges       = 10
	users       = 100_000
	routes      = 200
	inBody      = 1000 // entries of a request
	round       = 200_000
	week        = 7 * 24 * time.Hour
)

type signer struct{ *ecdsa.PrivateKey }

func (s signer) Attest(text []byte) ([]byte, error) {
	sum := sha256.Sum256(text)
	return ecdsa.SignASN1(crand.Reader, s.PrivateKey, sum[:])
}

// maker makes entries as an edge writes them.
type maker struct {
	start time.Time
	step  time.Duration
	n     int
	input bool
	ids   []string // some of those that it made
	rand  *rand.Rand
}

var digest = strings.Repeat("5e", 32)

func (m *maker) user() int { // some ask more often than others
	return int(float64(users) * m.rand.Float64() * m.rand.Float64())
}

func (m *maker) entry(dst []byte) []byte {
	var random [40]byte
	for i := 0; i < len(random); i += 8 {
		v := m.rand.Uint64()
		for j := range 8 {
			random[i+j] = byte(v >> (8 * j))
		}
	}
	id := base32.StdEncoding.EncodeToString(random[:16])[:26]
	user, route, order := m.user(), m.rand.IntN(routes)*m.rand.IntN(routes)/routes, m.rand.IntN(1_000_000)
	at := m.start.Add(time.Duration(m.n)*m.step + time.Duration(m.rand.Int64N(int64(m.step))))
	if m.n++; m.n%1000 == 0 {
		m.ids = append(m.ids, id)
	}
	outcome, reason, result := "allow", "", "true"
	if m.rand.IntN(20) == 0 {
		outcome, reason, result = "deny", `,"reason":"denied"`, "false"
	}
	path := fmt.Sprintf("/api/r%d/%d", route, order)
	dst = fmt.Appendf(dst, `{"decision_id":"%s","timestamp":"%s","format":1,"labels":{"id":"web"},"trace_id":"%s","revision":"v%d","bundles":{"app":{"revision":"v%d","digest":"%s"}},"path":"envoy/authz/allow",`+
		`"requested_by":"10.%d.%d.%d","app":"shop","route":"r%d.show","parameters":{"id":"%d"},"identity":{"type":"jwt","subject":"user-%d@example.com","issuer":"https://login.example.com","roles":["customer"],"authenticated":true},`+
		`"request":{"method":"GET","host":"shop.example.com","path":"%s"},"outcome":"%s"%s,"metrics":{"timer_server_handler_ns":%d},"digests":{"routes":"%s","keys":"%s"},"result":%s`,
		id, at.UTC().Format(time.RFC3339Nano), hex.EncodeToString(random[16:32]), m.n/2_000_000, m.n/2_000_000, digest, route%4, user%16, user%250, route, order, user, path, outcome, reason,
		20_000+m.rand.IntN(60_000), digest, digest, result)
	if m.input {
		dst = fmt.Appendf(dst, `,"input":{"attributes":{"request":{"http":{"method":"GET","host":"shop.example.com","path":"%s","headers":{"accept":"application/json","user-agent":"Mozilla/5.0 (X11; Linux x86_64)"}}}},`+
			`"identity":{"type":"jwt","subject":"user-%d@example.com","roles":["customer"],"authenticated":true},"parsed_path":["api","r%d","%d"],"parsed_query":{}}`, path, user, route, order)
	}
	return append(dst, '}')
}

// bodies are entries as requests.
func (m *maker) bodies(n int) (list [][]byte, plain int) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	check(err)
	var text []byte
	for n > 0 {
		text = append(text[:0], '[')
		for i := range min(n, inBody) {
			if i > 0 {
				text = append(text, ',')
			}
			text = m.entry(text)
		}
		n -= inBody
		text = append(text, ']')
		plain += len(text)
		out.Reset()
		w.Reset(&out)
		_, err := w.Write(text)
		check(err)
		check(w.Close())
		list = append(list, bytes.Clone(out.Bytes()))
	}
	return list, plain
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// memory is a line of this process's status, in MB.
func memory(name string) int {
	text, err := os.ReadFile("/proc/self/status")
	check(err)
	_, rest, _ := strings.Cut(string(text), name+":")
	n, _ := strconv.Atoi(strings.Fields(rest)[0])
	return n / 1024
}

func size(dir, suffix string) (n int64, files int) {
	check(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, suffix) {
			info, err := d.Info()
			check(err)
			n += info.Size()
			files++
		}
		return err
	}))
	return n, files
}

func main() {
	entries := flag.Int("entries", 10_000_000, "how many")
	input := flag.Bool("input", false, "with the policy's input in each entry")
	only := flag.Bool("search", false, "only search what an earlier run left in -dir")
	profile := flag.String("cpuprofile", "", "write a profile of searching to this file")
	dir := flag.String("dir", "", "where; a temporary folder that is removed, where it is not set")
	flag.Parse()
	if *dir == "" {
		made, err := os.MkdirTemp("", "bench-decisions")
		check(err)
		defer os.RemoveAll(made)
		*dir = made
	}
	debug.SetMemoryLimit(220 << 20) // as control serve's pace of collection has it, more or less
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	check(err)
	s, err := decisions.Open(decisions.Config{Dir: *dir, Signer: signer{key}})
	check(err)
	e, err := s.Environment(environment)
	check(err)
	m := &maker{start: time.Now().Add(-week), step: week / time.Duration(*entries), input: *input, rand: rand.New(rand.NewPCG(1, 2))}
	if *only {
		m.n = 1
		found, err := e.Search(context.Background(), decisions.Query{Limit: 1000, Filter: decisions.Filter{Until: time.Now().Add(-48 * time.Hour)}})
		check(err)
		for _, r := range found.Rows {
			m.ids = append(m.ids, r.ID)
		}
		if *profile != "" {
			f, err := os.Create(*profile)
			check(err)
			check(pprof.StartCPUProfile(f))
			defer pprof.StopCPUProfile()
		}
		search(s, e, m)
		s.Close()
		return
	}
	took, plain, busy := ingest(s, m, *entries)
	fmt.Printf("%d entries of %d bytes on %d cores\n", *entries, plain / *entries, runtime.GOMAXPROCS(0))
	fmt.Printf("ingest               %8.0f entries/s, unpacked, on disk and searchable (>= 100000); %.1f us of one core's time each\n", float64(*entries)/took.Seconds(), float64(busy.Microseconds())/float64(*entries))
	s.Close()
	fmt.Printf("memory, peak         %8d MB, with the entries that wait to be sent\n", memory("VmHWM"))
	began := time.Now()
	s, err = decisions.Open(decisions.Config{Dir: *dir, Signer: signer{key}})
	check(err)
	e, err = s.Environment(environment)
	check(err)
	fmt.Printf("start                %8.0f ms\n", float64(time.Since(began).Microseconds())/1000)
	bytesOf, files := size(*dir, ".parquet")
	journal, _ := size(*dir, ".journal")
	fmt.Printf("on disk              %8.1f bytes an entry in %d segments, and %d MB of journal (<= 120)\n", float64(bytesOf)/float64(*entries-inJournal(e)), files, journal>>20)
	search(s, e, m)
	s.Close()
}

// inJournal is how many entries are in no segment yet.
func inJournal(e *decisions.Environment) int { return e.Waiting() }

func ingest(s *decisions.Store, m *maker, entries int) (took time.Duration, plain int, busy time.Duration) {
	for done := 0; done < entries; done += round {
		list, n := m.bodies(min(round, entries-done))
		plain += n
		runtime.GC()
		began, before := time.Now(), cpu()
		var next atomic.Int64
		var wait sync.WaitGroup
		for i := range edges {
			wait.Go(func() {
				for {
					n := int(next.Add(1)) - 1
					if n >= len(list) {
						return
					}
					taken, err := s.Add(context.Background(), environment, fmt.Sprintf("edge%012d", i), list[n])
					check(err)
					if taken.Known > 0 {
						log.Fatal("an entry is known that is new")
					}
				}
			})
		}
		wait.Wait()
		took += time.Since(began)
		busy += cpu() - before
	}
	return took, plain, busy
}

// cpu is how long this process has worked, on all cores together.
func cpu() time.Duration {
	var u syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func search(s *decisions.Store, e *decisions.Environment, m *maker) {
	debug.FreeOSMemory()
	var peak atomic.Int64
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
				peak.Store(max(peak.Load(), int64(memory("VmRSS"))))
			}
		}
	}()
	ctx, now := context.Background(), time.Now()
	user := func() string { return fmt.Sprintf("user-%d@example.com", m.user()) }
	timed := func(what, bound string, times int, do func() int) {
		var all []time.Duration
		found, worked := 0, cpu()
		for range times {
			began := time.Now()
			found += do()
			all = append(all, time.Since(began))
		}
		slices.Sort(all)
		fmt.Printf("%-20s %8.1f ms, the slowest of %d %.1f, each %.1f of one core, %d found%s\n", what, ms(all[len(all)/2]), times, ms(all[len(all)-1]), ms((cpu()-worked)/time.Duration(times)), found, bound)
	}
	find := func(q decisions.Query) int {
		p, err := e.Search(ctx, q)
		check(err)
		return len(p.Rows)
	}
	day, whole := now.Add(-24*time.Hour), now.Add(-week-time.Hour)
	timed("user's day", " (<= 200)", 30, func() int {
		return find(decisions.Query{Filter: decisions.Filter{User: user(), Since: day}})
	})
	timed("user's denials, day", "", 30, func() int {
		return find(decisions.Query{Filter: decisions.Filter{User: user(), Since: day, Outcome: decisions.Deny}})
	})
	timed("user's week", " (<= 1000)", 20, func() int {
		return find(decisions.Query{Filter: decisions.Filter{User: user(), Since: whole}, Limit: 1000})
	})
	timed("user's denials, week", "", 20, func() int {
		return find(decisions.Query{Filter: decisions.Filter{User: user(), Since: whole, Outcome: decisions.Deny}})
	})
	timed("by id", " (<= 20)", 50, func() int {
		return find(decisions.Query{Filter: decisions.Filter{ID: m.ids[m.rand.IntN(len(m.ids))]}})
	})
	timed("newest 100", "", 20, func() int { return find(decisions.Query{}) })
	timed("text, an hour", "", 5, func() int {
		return find(decisions.Query{Filter: decisions.Filter{Text: "/424242", Since: now.Add(-time.Hour)}})
	})
	count := func(since time.Time) int {
		c, err := e.Count(ctx, decisions.Filter{Since: since, Outcome: decisions.Deny}, "route", "", 20)
		check(err)
		return int(c.Total.Deny)
	}
	timed("denied by route, day", "", 10, func() int { return count(day) })
	timed("denied by route, week", "", 5, func() int { return count(whole) })
	close(ended)
	fmt.Printf("memory, searching    %8d MB (<= 250)\n", peak.Load())
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
