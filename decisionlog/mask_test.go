package decisionlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/decisionlog"
	"gatehouse/input"
)

// masked is what an entry with a body and an answer becomes.
func masked(t *testing.T, cfg decisionlog.Config) map[string]any {
	t.Helper()
	return parse(t, write(t, cfg, &decisionlog.Entry{DecisionID: "d-1", RequestedBy: "10.0.0.1", Asked: true, Result: doc(`{"allowed":true,"list":[1,2,3]}`),
		Input: decisionlog.Input{Request: input.Request{Host: "h", Path: "/a?x=1"},
			Identity:   decisionlog.Identity{Subject: "ann", Roles: []string{"viewer"}},
			ParsedBody: doc(`{"card":{"no":4711,"name":"Ann"},"a/b":1,"c~d":2,"n":12345678901234567890.10,"list":[[1,2],{"x":1}]}`)}}))
}

func TestMask(t *testing.T) {
	upsert := func(path string, v any) decisionlog.Mask {
		return decisionlog.Mask{Op: "upsert", Path: path, Value: v}
	}
	for _, tt := range []struct {
		mask           decisionlog.Mask
		at             string // where to look
		want           string // as JSON; "" for nothing
		erased, masked string
	}{
		{decisionlog.Mask{Path: "/input/parsed_body/card/no"}, "input/parsed_body/card", `{"name":"Ann"}`, "[/input/parsed_body/card/no]", "<nil>"},
		{decisionlog.Mask{Op: "remove", Path: "/input/parsed_body/list/0/1"}, "input/parsed_body/list", `[[1],{"x":1}]`, "[/input/parsed_body/list/0/1]", "<nil>"},
		{decisionlog.Mask{Path: "/result/list/1"}, "result/list", `[1,3]`, "[/result/list/1]", "<nil>"},
		{decisionlog.Mask{Path: "/input"}, "input", ``, "[/input]", "<nil>"},
		{decisionlog.Mask{Path: "/input/parsed_body/a~1b"}, "input/parsed_body/a/b", ``, "[/input/parsed_body/a~1b]", "<nil>"},
		{decisionlog.Mask{Path: "/input/parsed_body/c~0d"}, "input/parsed_body/c~d", ``, "[/input/parsed_body/c~0d]", "<nil>"},
		{decisionlog.Mask{Path: "/identity/subject"}, "identity", `{"roles":["viewer"],"authenticated":false}`, "[/identity/subject]", "<nil>"},
		{decisionlog.Mask{Path: "/requested_by"}, "requested_by", ``, "[/requested_by]", "<nil>"},
		{decisionlog.Mask{Path: "/input/nowhere/x"}, "input/parsed_body/card/name", `"Ann"`, "<nil>", "<nil>"},
		{decisionlog.Mask{Path: "/input/parsed_body/list/7"}, "input/parsed_body/list", `[[1,2],{"x":1}]`, "<nil>", "<nil>"},
		{decisionlog.Mask{Path: "/nd_builtin_cache"}, "input/parsed_body/card/name", `"Ann"`, "<nil>", "<nil>"},
		{upsert("/input/parsed_body/card", "***"), "input/parsed_body/card", `"***"`, "<nil>", "[/input/parsed_body/card]"},
		{upsert("/input/parsed_body/new/deep", map[string]any{"n": 1}), "input/parsed_body/new", `{"deep":{"n":1}}`, "<nil>", "[/input/parsed_body/new/deep]"},
		{upsert("/input/parsed_body/list/1/x", nil), "input/parsed_body/list", `[[1,2],{"x":null}]`, "<nil>", "[/input/parsed_body/list/1/x]"},
		{upsert("/input/parsed_body/list/999999999", 1), "input/parsed_body/list", `[[1,2],{"x":1}]`, "<nil>", "<nil>"},
		{upsert("/result", "gone"), "result", `"gone"`, "<nil>", "[/result]"},
		{upsert("/identity/subject", "<s>"), "identity/subject", `"<s>"`, "<nil>", "[/identity/subject]"},
	} {
		for from, cfg := range map[string]decisionlog.Config{
			"configuration": {Masks: []decisionlog.Mask{tt.mask}},
			"policy": {Rules: func(context.Context, []byte) decisionlog.Ruling {
				one := any(map[string]any{"op": tt.mask.Op, "path": tt.mask.Path, "value": tt.mask.Value})
				if tt.mask.Op == "" {
					one = tt.mask.Path
				}
				return decisionlog.Ruling{Masks: []any{one}}
			}},
		} {
			t.Run(from+" "+tt.mask.Op+tt.mask.Path, func(t *testing.T) {
				got := masked(t, cfg)
				if e, m := fmt.Sprint(got["erased"]), fmt.Sprint(got["masked"]); e != tt.erased || m != tt.masked {
					t.Errorf("erased %s, masked %s; want %s, %s", e, m, tt.erased, tt.masked)
				}
				var have string
				if v := at(got, tt.at); v != nil || tt.want == "null" {
					text, _ := json.Marshal(v)
					have = string(text)
				}
				if !sameJSON(have, tt.want) {
					t.Errorf("%s is %s, want %s", tt.at, have, tt.want)
				}
			})
		}
	}
}

// at follows a path of names, the last of which may have slashes.
func at(v any, path string) any {
	for path != "" {
		in, _ := v.(map[string]any)
		if below, ok := in[path]; ok {
			return below
		}
		var name string
		name, path, _ = strings.Cut(path, "/")
		v = in[name]
	}
	return v
}

func sameJSON(a, b string) bool {
	var x, y any
	errA, errB := json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)
	return (errA == nil) == (errB == nil) && cmp.Equal(x, y)
}

// TestMaskLeavesTheRest compares a line with a mask to the one without: what is not masked stays as it is, byte for byte.
func TestMaskLeavesTheRest(t *testing.T) {
	e := usual()
	e.Result = doc(`{"n":12345678901234567890.10,"t":"<&\u2028>"}`)
	plain := write(t, decisionlog.Config{}, e)
	got := write(t, decisionlog.Config{Masks: []decisionlog.Mask{{Path: "/input/attributes"}}}, e)
	before, rest, _ := strings.Cut(plain, `,"result":`)
	result, _, _ := strings.Cut(rest, `,"input":`)
	if !strings.Contains(got, result) || !strings.HasPrefix(got, before[:strings.Index(before, `,"masked"`)]) {
		t.Errorf("%s\n%s", plain, got)
	}
}

func TestMaskRefused(t *testing.T) {
	for _, tt := range []struct {
		mask decisionlog.Mask
		want string
	}{
		{decisionlog.Mask{Path: ""}, `mask "": must be a JSON pointer`},
		{decisionlog.Mask{Path: "input"}, `mask "input": must be a JSON pointer`},
		{decisionlog.Mask{Path: "/decision_id"}, `mask "/decision_id": must begin with one of /error`},
		{decisionlog.Mask{Op: "replace", Path: "/input"}, `op is "replace"`},
		{decisionlog.Mask{Path: "/input" + strings.Repeat("/a", 64)}, "more than 64 parts"},
		{decisionlog.Mask{Op: "upsert", Path: "/input", Value: func() {}}, "unsupported type"},
	} {
		if _, err := decisionlog.New(decisionlog.Config{File: "-", Masks: []decisionlog.Mask{tt.mask}}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

// TestRules has the policy's rules fail in every way: the event is there, without what might have been masked.
func TestRules(t *testing.T) {
	const all, envelope = "[/input /result]", "<nil>"
	for _, tt := range []struct {
		name         string
		ruling       decisionlog.Ruling
		erased       string
		masks, drops float64 // errors
	}{
		{"no rules", decisionlog.Ruling{}, envelope, 0, 0},
		{"an empty set", decisionlog.Ruling{Masks: []any{}}, envelope, 0, 0},
		{"fails", decisionlog.Ruling{MaskError: errors.New("conflict")}, all, 1, 0},
		{"no set", decisionlog.Ruling{Masks: "/input/x"}, all, 1, 0},
		{"no pointer", decisionlog.Ruling{Masks: []any{"/input/x", 7.0}}, all, 1, 0},
		{"elsewhere", decisionlog.Ruling{Masks: []any{"/labels"}}, all, 1, 0},
		{"no op", decisionlog.Ruling{Masks: []any{map[string]any{"path": "/input/x"}}}, all, 1, 0},
		{"too many", decisionlog.Ruling{Masks: make([]any, 1001)}, all, 1, 0},
		{"the drop fails", decisionlog.Ruling{Drop: true, DropError: errors.New("conflict")}, envelope, 0, 1},
		{"the drop fails, not the mask", decisionlog.Ruling{DropError: errors.New("conflict"), Masks: []any{"/input"}}, "[/input]", 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			got := masked(t, decisionlog.Config{Registerer: reg, Rules: func(context.Context, []byte) decisionlog.Ruling { return tt.ruling }})
			if got["decision_id"] != "d-1" || fmt.Sprint(got["erased"]) != tt.erased || (got["input"] == nil) != (tt.erased != envelope) {
				t.Errorf("%v", got)
			}
			if n := bySink(t, reg, "gatehouse_decision_log_rule_errors_total"); n["mask"] != tt.masks || n["drop"] != tt.drops {
				t.Errorf("errors %v", n)
			}
		})
	}
}

// TestMaskAddsTooMuch bounds what a mask may put in.
func TestMaskAddsTooMuch(t *testing.T) {
	got := masked(t, decisionlog.Config{MaxEntry: 8 << 10, Masks: []decisionlog.Mask{{Op: "upsert", Path: "/input/x", Value: strings.Repeat("x", 9<<10)}}})
	if got["input"] != nil || fmt.Sprint(got["erased"]) != "[/input]" || got["result"] == nil {
		t.Errorf("%v", got)
	}
}

// odd is a policy that does not want every second entry.
func odd(_ context.Context, event []byte) decisionlog.Ruling {
	var e struct {
		ID string `json:"decision_id"`
	}
	_ = json.Unmarshal(event, &e)
	return decisionlog.Ruling{Drop: e.ID[len(e.ID)-1]%2 == 1}
}

// TestDropAfterAKill takes the position back to what a kill may leave: what was written is not written again, although what the policy
// did not want is between.
func TestDropAfterAKill(t *testing.T) {
	cfg := small(t.TempDir())
	cfg.Rules = odd
	l := open(t, cfg)
	end := run(l)
	add(t, l, entry(0))
	awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Written == 1 })
	early, err := os.ReadFile(filepath.Join(cfg.Dir, "position.file"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 40; i++ {
		add(t, l, entry(i))
	}
	awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Sinks[0].Unread == 0 })
	atKill := t.TempDir()
	if err := os.CopyFS(atKill, os.DirFS(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	finish(t, end)
	whole, err := os.ReadFile(cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range 3 { // lines that the kill came before
		if err := errors.Join(os.RemoveAll(cfg.Dir), os.CopyFS(cfg.Dir, os.DirFS(atKill))); err != nil {
			t.Fatal(err)
		}
		kept := whole
		for range cut {
			kept = kept[:bytes.LastIndexByte(kept[:len(kept)-1], '\n')+1]
		}
		for file, text := range map[string][]byte{cfg.File: kept, filepath.Join(cfg.Dir, "position.file"): early} {
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		finish(t, run(open(t, cfg)))
		if again, err := os.ReadFile(cfg.File); err != nil || !bytes.Equal(again, whole) {
			t.Errorf("cut %d: %v: %s", cut, err, again)
		}
	}
}

// TestRulesOnce asks the policy once about each event although there are two sinks.
func TestRulesOnce(t *testing.T) {
	cfg := small(t.TempDir())
	var asked atomic.Int64
	cfg.Sinks = []decisionlog.Sink{{Name: "more", File: cfg.File + "2"}}
	cfg.Rules = func(context.Context, []byte) decisionlog.Ruling {
		asked.Add(1)
		return decisionlog.Ruling{Masks: []any{"/requested_by"}}
	}
	l := open(t, cfg)
	end := run(l)
	for i := range 100 { // fewer than are kept
		add(t, l, entry(i))
	}
	finish(t, end)
	inOrder(t, cfg.File, 0, 100)
	inOrder(t, cfg.File+"2", 0, 100)
	if n := asked.Load(); n > 130 { // a few share a place
		t.Errorf("asked %d times about 100 events", n)
	}
}

// FuzzMask applies any mask to any body: what comes out is a line that says what was done.
func FuzzMask(f *testing.F) {
	f.Add("/input/parsed_body/a/0", "upsert", `{"a":[1]}`)
	f.Add("/input/parsed_body/~1", "remove", `{"/":{}}`)
	f.Add("/result", "upsert", `[]`)
	f.Fuzz(func(t *testing.T, path, op, body string) {
		if !json.Valid([]byte(body)) {
			body = "null"
		}
		var value any
		_ = json.Unmarshal([]byte(body), &value)
		rules := func(context.Context, []byte) decisionlog.Ruling {
			return decisionlog.Ruling{Masks: []any{map[string]any{"op": op, "path": path, "value": value}}}
		}
		got := parse(t, write(t, decisionlog.Config{Rules: rules}, &decisionlog.Entry{DecisionID: "d", Asked: true, Result: doc(body), Input: decisionlog.Input{ParsedBody: doc(body)}}))
		if got["decision_id"] != "d" {
			t.Errorf("%v", got)
		}
	})
}
