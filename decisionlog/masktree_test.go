package decisionlog_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/decisionlog"
)

// TestMaskSeveral masks parts that are in one another, or beside one another in a list, in any order.
func TestMaskSeveral(t *testing.T) {
	upsert := func(path string, v any) decisionlog.Mask {
		return decisionlog.Mask{Op: "upsert", Path: "/input/parsed_body" + path, Value: v}
	}
	remove := func(path string) decisionlog.Mask { return decisionlog.Mask{Path: "/input/parsed_body" + path} }
	const body = `{"l":["s0","s1","s2","s3"],"o":[{"s":1,"k":2},{"s":3}],"m":{"a":{"s":1},"0":"zero"},"a/b":1,"c~d":2,"~1":3}`
	for name, tt := range map[string]struct {
		masks          []decisionlog.Mask
		want           string // of the body
		erased, masked string // behind /input/parsed_body, in the order of the paths
	}{
		"every element":           {[]decisionlog.Mask{remove("/l/0"), remove("/l/1"), remove("/l/2"), remove("/l/3")}, `{"l":[]}`, "/l/0 /l/1 /l/2 /l/3", ""},
		"two beside one another":  {[]decisionlog.Mask{remove("/l/1"), remove("/l/2")}, `{"l":["s0","s3"]}`, "/l/1 /l/2", ""},
		"twice the same":          {[]decisionlog.Mask{remove("/l/1"), remove("/l/1")}, `{"l":["s0","s2","s3"]}`, "/l/1", ""},
		"behind the end":          {[]decisionlog.Mask{remove("/l/3"), remove("/l/4"), remove("/l/-"), remove("/l/-1"), remove("/l/+1"), remove("/l/01")}, `{"l":["s0","s1","s2"]}`, "/l/3", ""},
		"an element and below":    {[]decisionlog.Mask{remove("/o/0"), remove("/o/0/s"), remove("/o/1/s")}, `{"o":[{}]}`, "/o/0 /o/0/s /o/1/s", ""},
		"a parent and its child":  {[]decisionlog.Mask{remove("/m"), remove("/m/a/s")}, `{"m":null}`, "/m /m/a/s", ""},
		"a number that is a name": {[]decisionlog.Mask{remove("/m/0")}, `{"m":{"a":{"s":1}}}`, "/m/0", ""},
		"escapes":                 {[]decisionlog.Mask{remove("/a~1b"), remove("/c~0d"), remove("/~01")}, `{"a/b":null,"c~d":null,"~1":null}`, "/a~1b /c~0d /~01", ""},
		"beside an upsert":        {[]decisionlog.Mask{upsert("/l/2", "x"), remove("/l/1"), remove("/l/0")}, `{"l":["x","s3"]}`, "/l/0 /l/1", "/l/2"},
		"both of one place":       {[]decisionlog.Mask{upsert("/l/2", "x"), remove("/l/2")}, `{"l":["s0","s1","s3"]}`, "/l/2", ""},
		"put below what goes":     {[]decisionlog.Mask{upsert("/m/a/s", "x"), remove("/m/a")}, `{"m":{"0":"zero"}}`, "/m/a", ""},
		"put, and below it":       {[]decisionlog.Mask{upsert("/m/a/new", 1), upsert("/m/a", map[string]any{"n": 2})}, `{"m":{"a":{"n":2,"new":1},"0":"zero"}}`, "", "/m/a /m/a/new"},
		"put behind the end":      {[]decisionlog.Mask{upsert("/l/4", "x"), upsert("/l/-", "x")}, `{"l":["s0","s1","s2","s3"]}`, "", ""},
		"nowhere":                 {[]decisionlog.Mask{remove("/x/y"), remove("/l/0/z"), upsert("/l/0/z", 1)}, `{"l":["s0","s1","s2","s3"]}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for range 6 { // some orders, and some of it from the policy
				rand.Shuffle(len(tt.masks), func(i, j int) { tt.masks[i], tt.masks[j] = tt.masks[j], tt.masks[i] })
				got := maskBody(t, body, tt.masks)
				var want map[string]any
				if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
					t.Fatal(err)
				}
				parsed, _ := at(got, "input/parsed_body").(map[string]any)
				for member := range want {
					if diff := cmp.Diff(want[member], parsed[member]); diff != "" {
						t.Errorf("%v: %s: %s", tt.masks, member, diff)
					}
				}
				for name, want := range map[string]string{"erased": tt.erased, "masked": tt.masked} {
					if is := pointersBelow(got[name]); is != want {
						t.Errorf("%v: %s is %q, want %q", tt.masks, name, is, want)
					}
				}
			}
		})
	}
}

// maskBody is an entry with a body after masks, half of them the configuration's.
func maskBody(t *testing.T, body string, masks []decisionlog.Mask) map[string]any {
	t.Helper()
	half := len(masks) / 2
	cfg := decisionlog.Config{Masks: masks[:half], Rules: func(context.Context, []byte) decisionlog.Ruling {
		var list []any
		for _, m := range masks[half:] {
			if m.Op == "" {
				list = append(list, m.Path)
			} else {
				list = append(list, map[string]any{"op": m.Op, "path": m.Path, "value": m.Value})
			}
		}
		return decisionlog.Ruling{Masks: list}
	}}
	return parse(t, write(t, cfg, &decisionlog.Entry{DecisionID: "d", Asked: true, Input: decisionlog.Input{ParsedBody: doc(body)}}))
}

func pointersBelow(list any) string {
	var out []string
	all, _ := list.([]any)
	for _, p := range all {
		out = append(out, strings.TrimPrefix(fmt.Sprint(p), "/input/parsed_body"))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestMaskAgainstNaive removes random places of random documents, and compares with an evaluator that marks them all before it takes any out.
func TestMaskAgainstNaive(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		document := randomJSON(random, 4)
		text, _ := json.Marshal(document)
		var masks []decisionlog.Mask
		var erased []string
		for range 1 + random.IntN(6) {
			path := randomPath(random, document)
			if mark(&document, path) {
				erased = append(erased, path)
			}
			masks = append(masks, decisionlog.Mask{Path: "/input/parsed_body" + path})
		}
		got := maskBody(t, string(text), masks)
		want := sweep(document)
		if diff := cmp.Diff(want, at(got, "input/parsed_body")); diff != "" && !(want == nil) {
			t.Fatalf("%s, masks %v: %s", text, masks, diff)
		}
		slices.Sort(erased)
		if is := pointersBelow(got["erased"]); is != strings.Join(slices.Compact(erased), " ") {
			t.Fatalf("%s, masks %v: erased is %q, want %q", text, masks, is, erased)
		}
	}
}

// A place keeps what stood there, so that paths below what is marked still lead somewhere.
type marked struct{ was any }

func mark(v *any, path string) bool {
	if path == "" {
		if _, again := (*v).(marked); !again {
			*v = marked{*v}
		}
		return true
	}
	name, rest, more := strings.Cut(path[1:], "/")
	if more {
		rest = "/" + rest
	}
	in := *v
	m, was := in.(marked)
	if was {
		in = m.was
	}
	switch in := in.(type) {
	case map[string]any:
		below, ok := in[name]
		if !ok || !mark(&below, rest) {
			return false
		}
		in[name] = below
		return true
	case []any:
		i, err := strconv.Atoi(name)
		return err == nil && i >= 0 && i < len(in) && mark(&in[i], rest)
	}
	return false
}

func sweep(v any) any {
	switch in := v.(type) {
	case map[string]any:
		for name, below := range in {
			if _, gone := below.(marked); gone {
				delete(in, name)
			} else {
				in[name] = sweep(below)
			}
		}
	case []any:
		out := []any{}
		for _, below := range in {
			if _, gone := below.(marked); !gone {
				out = append(out, sweep(below))
			}
		}
		return out
	case marked:
		return nil
	}
	return v
}

func randomJSON(r *rand.Rand, depth int) any {
	if depth == 0 || r.IntN(5) == 0 {
		return fmt.Sprint("v", r.IntN(1000))
	}
	if r.IntN(2) == 0 {
		out := []any{}
		for range r.IntN(6) {
			out = append(out, randomJSON(r, depth-1))
		}
		return out
	}
	out := map[string]any{}
	for range r.IntN(5) {
		out[[]string{"a", "b", "0", "1", "2"}[r.IntN(5)]] = randomJSON(r, depth-1)
	}
	return out
}

func randomPath(r *rand.Rand, v any) string {
	switch in := v.(type) {
	case marked:
		return randomPath(r, in.was)
	case map[string]any:
		names := []string{"nowhere"}
		for name := range in {
			names = append(names, name)
		}
		slices.Sort(names)
		name := names[r.IntN(len(names))]
		if r.IntN(3) == 0 {
			return "/" + name
		}
		return "/" + name + randomPath(r, in[name])
	case []any:
		i := r.IntN(len(in) + 1)
		if i == len(in) || r.IntN(2) == 0 {
			return "/" + strconv.Itoa(i)
		}
		return "/" + strconv.Itoa(i) + randomPath(r, in[i])
	}
	return ""
}
