package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/util"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

// base returns a bundle whose decision contains all of its data.
func base(t testing.TB, data string, roots string) *bundle.Bundle {
	t.Helper()
	files := fstest.MapFS{
		"a.rego":    {Data: []byte("package authz\n\nallow := {\"allowed\": true, \"headers\": {\"x-data\": json.marshal(data.d)}}\n")},
		"data.json": {Data: []byte(data)},
	}
	if roots != "" {
		files[".manifest"] = &fstest.MapFile{Data: []byte(`{"roots": ` + roots + `}`)}
	}
	b, err := bundle.Read("app", files, bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dataOf returns data.d of a bundle as canonical JSON.
func dataOf(t testing.TB, b *bundle.Bundle) string {
	t.Helper()
	s, err := policy.Compile(context.Background(), policy.Config{Decision: "authz/allow"}, []*bundle.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Decide(context.Background(), rego.Object(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var x any
	if err := json.Unmarshal([]byte(d.Headers[0].Value), &x); err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(x)
	return string(text)
}

// opaDataOf returns data.d after OPA activated the operations as a delta bundle.
func opaDataOf(t testing.TB, before, ops string) string {
	t.Helper()
	ctx := context.Background()
	store := inmem.NewFromReader(strings.NewReader(before))
	var patch opa.Patch
	if err := util.UnmarshalJSON([]byte(`{"data":[`+ops+`]}`), &patch); err != nil {
		t.Fatal(err)
	}
	err := storage.Txn(ctx, store, storage.WriteParams, func(txn storage.Transaction) error {
		if len(patch.Data) == 0 {
			return nil // without an operation OPA treats it as a full bundle
		}
		delta := &opa.Bundle{Patch: patch, Manifest: opa.Manifest{Revision: "r2", Roots: &[]string{"d"}}}
		return opa.Activate(&opa.ActivateOpts{Ctx: ctx, Store: store, Txn: txn, Compiler: ast.NewCompiler(),
			Metrics: metrics.New(), Bundles: map[string]*opa.Bundle{"app": delta}})
	})
	if err != nil {
		t.Fatalf("OPA: %v", err)
	}
	value, err := storage.ReadOne(ctx, store, storage.Path{"d"})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(value)
	return string(text)
}

// TestDeltas compares each operation with OPA's store.
func TestDeltas(t *testing.T) {
	const before = `{"d":{"list":[1,2,3],"users":{"alice":{"role":"admin"},"bob":{"role":"viewer"}}}}`
	for name, c := range map[string]struct{ ops, want string }{
		"set a member":             {`{"op":"upsert","path":"/d/users/eve","value":{"role":"none"}}`, `{"list":[1,2,3],"users":{"alice":{"role":"admin"},"bob":{"role":"viewer"},"eve":{"role":"none"}}}`},
		"set over what is there":   {`{"op":"upsert","path":"d/users/bob/role","value":"admin"}`, `{"list":[1,2,3],"users":{"alice":{"role":"admin"},"bob":{"role":"admin"}}}`},
		"make the way":             {`{"op":"upsert","path":"/d/a/b/c","value":null}`, `{"a":{"b":{"c":null}},"list":[1,2,3],"users":{"alice":{"role":"admin"},"bob":{"role":"viewer"}}}`},
		"remove":                   {`{"op":"remove","path":"/d/users/bob"}`, `{"list":[1,2,3],"users":{"alice":{"role":"admin"}}}`},
		"replace":                  {`{"op":"replace","path":"/d/users","value":{}}`, `{"list":[1,2,3],"users":{}}`},
		"insert into an array":     {`{"op":"upsert","path":"/d/list/1","value":9}`, `{"list":[1,9,2,3],"users":{"alice":{"role":"admin"},"bob":{"role":"viewer"}}}`},
		"behind the last element":  {`{"op":"upsert","path":"/d/list/-","value":9},{"op":"upsert","path":"/d/list/4","value":10}`, `{"list":[1,2,3,9,10],"users":{"alice":{"role":"admin"},"bob":{"role":"viewer"}}}`},
		"remove and replace items": {`{"op":"remove","path":"/d/list/0"},{"op":"replace","path":"/d/list/0","value":{"x":1}},{"op":"upsert","path":"/d/list/0/y","value":2}`, `{"list":[{"x":1,"y":2},3],"users":{"alice":{"role":"admin"},"bob":{"role":"viewer"}}}`},
		"remove, then set again":   {`{"op":"remove","path":"/d/users"},{"op":"upsert","path":"/d/users/carol","value":1}`, `{"list":[1,2,3],"users":{"carol":1}}`},
		"names with escapes":       {`{"op":"upsert","path":"/d/users/a~1b~0c","value":1},{"op":"upsert","path":"/d/users/x%20y","value":2}`, `{"list":[1,2,3],"users":{"a/b~c":1,"alice":{"role":"admin"},"bob":{"role":"viewer"},"x y":2}}`},
		"nothing":                  {``, `{"list":[1,2,3],"users":{"alice":{"role":"admin"},"bob":{"role":"viewer"}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			b := base(t, before, "")
			was := dataOf(t, b)
			after, err := b.Patch([]byte(`{"revision":"r2"}`), []byte(`{"data":[`+c.ops+`]}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := dataOf(t, after); got != c.want {
				t.Errorf("data is\n%s, want\n%s", got, c.want)
			}
			if opa := opaDataOf(t, before, c.ops); opa != c.want {
				t.Errorf("OPA makes of it\n%s", opa)
			}
			if after.Revision() != "r2" || after.Digest() == b.Digest() {
				t.Errorf("revision %q, digest %q of a delta of %q", after.Revision(), after.Digest(), b.Digest())
			}
			if now := dataOf(t, b); now != was {
				t.Errorf("the bundle itself changed: %s", now)
			}
		})
	}
}

func TestDeltasThatDoNotFit(t *testing.T) {
	const before = `{"d":{"list":[1,2],"n":1}}`
	for name, c := range map[string]struct{ manifest, patch, want string }{
		"not JSON":                   {`{}`, "{\n\"data\": [", "patch.json:2: ends in the middle"},
		"broken manifest":            {`{`, `{}`, ".manifest:1"},
		"other roots":                {`{"roots":["e"]}`, `{}`, `roots ["e"] are not`},
		"unknown operation":          {`{"roots":["d","authz"]}`, `{"data":[{"op":"move","path":"/d/n"}]}`, `data[0]: move "/d/n"`},
		"outside the roots":          {`{"roots":["d","authz"]}`, `{"data":[{"op":"upsert","path":"/e","value":1}]}`, "outside the manifest's roots"},
		"above the roots":            {`{"roots":["d","authz"]}`, `{"data":[{"op":"remove","path":"/"}]}`, "names nothing"},
		"a root's name with a slash": {`{"roots":["d","authz"]}`, `{"data":[{"op":"upsert","path":"/d%2Fx","value":1}]}`, "outside the manifest's roots"},
		"remove what is not there":   {`{"roots":["d","authz"]}`, `{"data":[{"op":"remove","path":"/d/x"}]}`, "not there"},
		"replace what is not there":  {`{"roots":["d","authz"]}`, `{"data":[{"op":"replace","path":"/d/x/y","value":1}]}`, "not there"},
		"below a number":             {`{"roots":["d","authz"]}`, `{"data":[{"op":"upsert","path":"/d/n/x/y","value":1}]}`, "neither an object nor an array"},
		"beyond an array":            {`{"roots":["d","authz"]}`, `{"data":[{"op":"upsert","path":"/d/list/3","value":1}]}`, "not an index"},
		"an index with a zero":       {`{"roots":["d","authz"]}`, `{"data":[{"op":"remove","path":"/d/list/01"}]}`, "not an index"},
		"too deep":                   {`{"roots":["d","authz"]}`, `{"data":[{"op":"upsert","path":"/d` + strings.Repeat("/x", 1000) + `","value":1}]}`, "deeper"},
		"a second fails, none holds": {`{"roots":["d","authz"]}`, `{"data":[{"op":"upsert","path":"/d/n","value":2},{"op":"remove","path":"/d/x"}]}`, "data[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			b := base(t, before, `["d", "authz"]`)
			_, err := b.Patch([]byte(c.manifest), []byte(c.patch))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if got := dataOf(t, b); got != `{"list":[1,2],"n":1}` {
				t.Errorf("the bundle itself changed: %s", got)
			}
		})
	}
}

// TestSmallDeltaOfLargeData checks that a delta copies what it touches once, not once per operation.
func TestSmallDeltaOfLargeData(t *testing.T) {
	var data, ops strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&data, `,"u%d":{"n":%d}`, i, i)
	}
	for i := range 2_000 {
		fmt.Fprintf(&ops, `,{"op":"upsert","path":"/d/u%d/n","value":0}`, i*7)
	}
	b := base(t, `{"d":{`+data.String()[1:]+`}}`, "")
	began := time.Now()
	if _, err := b.Patch(nil, []byte(`{"data":[`+ops.String()[1:]+`]}`)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Minute { // about 40 ms; with a copy per operation it takes minutes
		t.Errorf("the delta took %v", took)
	}
}

func FuzzDelta(f *testing.F) {
	b := base(f, `{"d":{"list":[1,{"x":[]}],"n":{"a":{"b":1}}}}`, "")
	for _, op := range []string{`"upsert"`, `"remove"`, `"replace"`} {
		for _, path := range []string{"/d/list/-", "/d/list/1/x/0", "/d/n/a", "d/n/a/b", "/", "//", "/d/~1", "/%zz"} {
			f.Add([]byte(`{"data":[{"op":` + op + `,"path":"` + path + `","value":{"y":[1]}}]}`))
		}
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		after, err := b.Patch(nil, patch)
		if (err == nil) != (after != nil) {
			t.Fatalf("bundle %v with error %v", after, err)
		}
	})
}
