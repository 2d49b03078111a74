package decisions_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"gatehouse/control/decisions"
)

func attested(key *ecdsa.PublicKey) func(text, signature []byte) (bool, error) {
	return func(text, signature []byte) (bool, error) {
		sum := sha256.Sum256(text)
		return ecdsa.VerifyASN1(key, sum[:], signature), nil
	}
}

// segmentsOf makes a store with n entries, of which most are in segments, and closes it.
func segmentsOf(t *testing.T, dir string, key signer, n int) {
	t.Helper()
	o := open(t, decisions.Config{Dir: dir, Signer: key, Rows: 50})
	for from := 0; from < n; from += 25 {
		o.sends("edge", 25, entries(from, from+25)...)
	}
	o.Close()
}

// TestVerify finds whatever was done to segments and chain.
func TestVerify(t *testing.T) {
	t.Parallel()
	key, good := newSigner(t), t.TempDir()
	segmentsOf(t, good, key, 200)
	list, err := decisions.Verify(good, attested(&key.PublicKey), nil)
	if err != nil || len(list) != 1 || len(list[0].Problems) > 0 || list[0].Entries < 100 {
		t.Fatalf("%+v, %v", list, err)
	}
	head := list[0].Head
	segments, err := filepath.Glob(filepath.Join(good, prod, "*.parquet"))
	if err != nil || len(segments) < 4 {
		t.Fatal(segments, err)
	}
	slices.Sort(segments)
	change := func(path string, do func([]byte) []byte) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, do(text), 0o600)
	}
	chain := func(dir string) string { return filepath.Join(dir, prod, decisions.ChainFile) }
	lines := func(text []byte) [][]byte {
		list := bytes.SplitAfter(text, []byte("\n"))
		return list[:len(list)-1]
	}
	for name, test := range map[string]struct {
		do   func(dir string) error
		has  []string
		want string
	}{
		"nothing": {func(string) error { return nil }, []string{head}, ""},
		"a changed segment": {func(dir string) error {
			return change(filepath.Join(dir, prod, filepath.Base(segments[0])), func(b []byte) []byte { b[len(b)/2]++; return b })
		}, nil, "it was changed"},
		"a longer segment": {func(dir string) error {
			return change(filepath.Join(dir, prod, filepath.Base(segments[0])), func(b []byte) []byte { return append(b, 0) })
		}, nil, "it was changed"},
		"a removed segment": {func(dir string) error { return os.Remove(filepath.Join(dir, prod, filepath.Base(segments[0]))) }, nil, "it is missing"},
		"another segment": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, prod, "x.parquet"), nil, 0o600)
		}, nil, "the chain does not name it"},
		"a changed record": {func(dir string) error {
			return change(chain(dir), func(b []byte) []byte { return bytes.Replace(b, []byte(`"rows":`), []byte(`"rows":1`), 1) })
		}, nil, "not signed by control"},
		"a removed record": {func(dir string) error {
			return change(chain(dir), func(b []byte) []byte { l := lines(b); return bytes.Join(append(l[:1:1], l[2:]...), nil) })
		}, nil, "does not follow"},
		"an earlier end": {func(dir string) error {
			return change(chain(dir), func(b []byte) []byte { l := lines(b); return bytes.Join(l[:len(l)-1], nil) })
		}, []string{head}, "no chain has the record " + head},
		"no chain": {func(dir string) error { return os.Remove(chain(dir)) }, nil, "the chain does not name it"},
		"half a record": {func(dir string) error {
			return change(chain(dir), func(b []byte) []byte { return append(b, `{"record"`...) })
		}, nil, "9 bytes that are no record"},
		"no record": {func(dir string) error {
			return change(chain(dir), func(b []byte) []byte { return append(b, "{}\n"...) })
		}, nil, "segments.chain:"},
		"another's segment": {func(dir string) error {
			return os.Rename(filepath.Join(dir, prod), filepath.Join(dir, "default", "dev"))
		}, nil, "it is of default/prod"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			if err := test.do(dir); err != nil {
				t.Fatal(err)
			}
			list, err := decisions.Verify(dir, attested(&key.PublicKey), test.has)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, v := range list {
				all = append(all, v.Problems...)
			}
			text := strings.Join(all, "\n")
			if test.want == "" && text != "" || !strings.Contains(text, test.want) {
				t.Errorf("got %q, want %q", text, test.want)
			}
		})
	}
	other := newSigner(t)
	if list, err := decisions.Verify(good, attested(&other.PublicKey), nil); err != nil || len(list[0].Problems) == 0 {
		t.Errorf("another's key: %v %v", list, err)
	}
}

// TestMissingSegment: a search that needs a segment that is gone fails, and one that does not goes on.
func TestMissingSegment(t *testing.T) {
	t.Parallel()
	key, dir := newSigner(t), t.TempDir()
	segmentsOf(t, dir, key, 200)
	segments, _ := filepath.Glob(filepath.Join(dir, prod, "*-allow.parquet"))
	slices.Sort(segments)
	if err := os.Remove(segments[0]); err != nil {
		t.Fatal(err)
	}
	o := open(t, decisions.Config{Dir: dir, Signer: key, Rows: 50})
	if _, err := o.Search(t.Context(), decisions.Query{Limit: 1000}); err == nil || !strings.Contains(err.Error(), "a segment of decisions is missing") {
		t.Errorf("%v", err)
	}
	if rows := o.finds(decisions.Query{Filter: decisions.Filter{Outcome: decisions.Deny}}); len(rows) != 67 {
		t.Errorf("%d denials", len(rows))
	}
}

// TestExport: the three formats have the same decisions.
func TestExport(t *testing.T) {
	t.Parallel()
	o := open(t, decisions.Config{Dir: t.TempDir(), Rows: 60})
	o.sends("edge", 100, entries(0, 100)...)
	o.sends("edge", 20, entries(100, 120)...)
	f := decisions.Filter{Since: noon.Add(10 * time.Second), Until: noon.Add(110 * time.Second)}
	export := func(as decisions.Format) *bytes.Buffer {
		t.Helper()
		var out bytes.Buffer
		if err := o.Export(t.Context(), &out, f, as); err != nil {
			t.Fatal(err)
		}
		return &out
	}
	seen := map[string]bool{}
	for line := range strings.Lines(export(decisions.JSON).String()) {
		for n := 10; n < 110; n++ {
			if e := entry(n); strings.Contains(line, strings.Split(e, `"`)[3]) && same(t, line, e) {
				seen[e] = true
			}
		}
	}
	if len(seen) != 100 {
		t.Errorf("JSON has %d", len(seen))
	}
	table, err := csv.NewReader(export(decisions.CSV)).ReadAll()
	if err != nil || len(table) != 101 || table[0][0] != "time" {
		t.Errorf("CSV has %d lines, %v", len(table), err)
	}
	file := export(decisions.Parquet)
	rows, err := parquet.Read[decisions.Row](bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil || len(rows) != 100 {
		t.Errorf("Parquet has %d rows, %v", len(rows), err)
	}
	if err := o.Export(t.Context(), &bytes.Buffer{}, f, decisions.Format(7)); !errors.Is(err, decisions.ErrFilter) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Export(ctx, &bytes.Buffer{}, f, decisions.JSON); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestCount counts the same in tables and in segments.
func TestCount(t *testing.T) {
	t.Parallel()
	for _, rows := range []int{1000, 40} {
		o := open(t, decisions.Config{Dir: t.TempDir(), Rows: rows})
		for from := 0; from < 120; from += 20 {
			o.sends("edge", 20, entries(from, from+20)...)
		}
		c, err := o.Count(t.Context(), decisions.Filter{}, "route", "", 3)
		if err != nil || c.Values != 5 || len(c.List) != 3 || c.Total.Allow != 80 || c.Total.Deny != 40 || c.Total.Max != 1119 || c.Total.P50 < 1059 || c.Total.P50 > 1140 || c.List[0].Allow+c.List[0].Deny != 24 {
			t.Errorf("%d: %+v, %v", rows, c, err)
		}
		for by, values := range map[string]int{"reason": 2, "status": 2, "user": 20, "outcome": 2, "edge": 1, "revision": 3, "host": 1} {
			if c, err := o.Count(t.Context(), decisions.Filter{}, by, "", 0); err != nil || c.Values != values {
				t.Errorf("%d: by %s %d values, %v", rows, by, c.Values, err)
			}
		}
		extra := strings.ReplaceAll(entry(102), "orders.2", "orders.new")
		o.sends("another", 1, extra)
		c, err = o.Count(t.Context(), decisions.Filter{Outcome: decisions.Deny}, "route", "v3", 0)
		if err != nil || c.Values != 1 || c.List[0].Value != "orders.new" {
			t.Errorf("%d: new denials %+v, %v", rows, c, err)
		}
		if _, err := o.Count(t.Context(), decisions.Filter{}, "input", "", 0); !errors.Is(err, decisions.ErrFilter) {
			t.Errorf("%v", err)
		}
	}
}

// TestFollow: who follows gets what is new and wanted, and who does not keep up learns how much he lost.
func TestFollow(t *testing.T) {
	t.Parallel()
	o := open(t, decisions.Config{Dir: t.TempDir()})
	o.sends("edge", 10, entries(0, 10)...)
	tail, err := o.Follow(decisions.Filter{User: "user-3"})
	if err != nil {
		t.Fatal(err)
	}
	slow, err := o.Follow(decisions.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	o.sends("edge", 20, entries(10, 30)...)
	o.sends("edge", 0, entries(10, 30)...)
	if r := <-tail.C; r.User != "user-3" || len(tail.C) != 0 {
		t.Errorf("%+v and %d more", r, len(tail.C))
	}
	tail.Close()
	o.sends("edge", 2500, entries(30, 2530)...)
	if n, lost := len(slow.C), slow.Lost(); lost == 0 || n+int(lost) != 2520 {
		t.Errorf("%d, lost %d", n, lost)
	}
	if len(tail.C) != 0 {
		t.Error("it was closed")
	}
}
