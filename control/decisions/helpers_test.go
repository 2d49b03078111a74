package decisions_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse/control/decisions"
)

// signer is a key as control's authority has it.
type signer struct{ *ecdsa.PrivateKey }

func newSigner(t testing.TB) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key}
}

func (s signer) Attest(text []byte) ([]byte, error) {
	sum := sha256.Sum256(text)
	return ecdsa.SignASN1(rand.Reader, s.PrivateKey, sum[:])
}

const prod = "default/prod"

// opened is a store with one environment.
type opened struct {
	*decisions.Store
	*decisions.Environment
	t testing.TB
}

func open(t testing.TB, with decisions.Config) *opened {
	t.Helper()
	if with.Signer == nil {
		with.Signer = newSigner(t)
	}
	s, err := decisions.Open(with)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	e, err := s.Environment(prod)
	if err != nil {
		t.Fatal(err)
	}
	return &opened{s, e, t}
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// entry is a line as an edge sends it: the n-th of a second each.
func entry(n int) string {
	outcome, reason, status := "allow", "", ""
	if n%3 == 0 {
		outcome, reason, status = "deny", `,"reason":"policy"`, `,"status":403`
	}
	return fmt.Sprintf(`{"decision_id":"%08d-0000-7000-8000-00000000000%d","timestamp":"%s","format":1,"labels":{"id":"one"},"trace_id":"%032x","revision":"v%d","path":"envoy/authz/allow",`+
		`"requested_by":"10.0.0.%d","app":"shop","route":"orders.%d","parameters":{"id":"%d"},"identity":{"type":"jwt","roles":["a"],"authenticated":true,"subject":"user-%d"},`+
		`"request":{"method":"GET","host":"shop.example.com","path":"/orders/%d?q=é"},"outcome":"%s"%s%s,"metrics":{"timer_server_handler_ns":%d},"result":{"allowed":%t},"input":{"n":%d}}`,
		n, n%10, noon.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano), n, 1+n/50, n%7, n%5, n, n%20, n, outcome, reason, status, 1000+n, outcome == "allow", n)
}

func body(t testing.TB, entries ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(w, "[%s]", strings.Join(entries, ","))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// entries are those from..to-1.
func entries(from, to int) (list []string) {
	for n := from; n < to; n++ {
		list = append(list, entry(n))
	}
	return list
}

// sends has an edge send entries, of which some are new.
func (o *opened) sends(edge string, fresh int, list ...string) {
	o.t.Helper()
	taken, err := o.Add(context.Background(), prod, edge, body(o.t, list...))
	if err != nil || taken.New != fresh || taken.New+taken.Known != len(list) {
		o.t.Fatalf("%+v of %d, %v; want %d new", taken, len(list), err, fresh)
	}
}

// finds searches all pages.
func (o *opened) finds(q decisions.Query) (rows []decisions.Row) {
	o.t.Helper()
	for range 1000 {
		p, err := o.Search(context.Background(), q)
		if err != nil {
			o.t.Fatal(err)
		}
		if rows = append(rows, p.Rows...); p.Next == "" {
			return rows
		}
		q.Page = p.Next
	}
	o.t.Fatal("the pages do not end")
	return nil
}
