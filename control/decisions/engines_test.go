//go:build segments

package decisions_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"gatehouse/control/decisions"
)

// query prints what DuckDB and ClickHouse find in the segments of a folder.
const query = `
import json, sys, duckdb, chdb
files = sys.argv[1] + "/*.parquet"
where = "where user = 'user-7' and outcome = 'deny'"
out = {}
for name, source, run in [
    ("duckdb", f"read_parquet('{files}')", lambda q: [list(r) for r in duckdb.sql(q).fetchall()]),
    ("clickhouse", f"file('{files}', Parquet)", lambda q: [json.loads(l) for l in str(chdb.query(q, "JSONCompactEachRow")).splitlines()]),
]:
    # ClickHouse writes 64-bit numbers as text
    out[name] = {
        "count": int(run(f"select count(*) from {source}")[0][0]),
        "denied": [[r[0], r[1], int(r[2]), int(r[3])] for r in run(f"select id, path, status, duration_ns from {source} {where} order by time")],
        "routes": [[r[0], int(r[1])] for r in run(f"select route, count(*) as n from {source} where outcome = 'deny' group by route order by n desc, route")],
    }
print(json.dumps(out))
`

// TestOtherEngines: DuckDB and ClickHouse find in the segments what control does. make test-segments runs it.
func TestOtherEngines(t *testing.T) {
	python := os.Getenv("GATEHOUSE_TEST_PYTHON")
	if python == "" {
		t.Fatal("make test-segments runs this")
	}
	dir, key := t.TempDir(), newSigner(t)
	segmentsOf(t, dir, key, 1000)
	o := open(t, decisions.Config{Dir: dir, Signer: key, Rows: 1}) // what was left in a journal becomes segments
	type found struct {
		Count  int     `json:"count"`
		Denied [][]any `json:"denied"`
		Routes [][]any `json:"routes"`
	}
	want := found{Count: len(o.finds(decisions.Query{Limit: 1000}))}
	list := o.finds(decisions.Query{Filter: decisions.Filter{User: "user-7", Outcome: decisions.Deny}})
	for i := len(list) - 1; i >= 0; i-- {
		r := list[i]
		want.Denied = append(want.Denied, []any{r.ID, r.Path, float64(r.Status), float64(r.Duration)})
	}
	counts, err := o.Count(t.Context(), decisions.Filter{Outcome: decisions.Deny}, "route", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts.List {
		want.Routes = append(want.Routes, []any{c.Value, float64(c.Deny)})
	}
	c := exec.CommandContext(t.Context(), python, "-c", query, filepath.Join(dir, prod))
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]found
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	for _, engine := range []string{"duckdb", "clickhouse"} {
		if !reflect.DeepEqual(got[engine], want) || want.Count != 1000 || len(want.Denied) < 10 {
			t.Errorf("%s finds %+v\ncontrol %+v", engine, got[engine], want)
		}
	}
}
