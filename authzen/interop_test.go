package authzen_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"gatehouse/authzen"
	"gatehouse/directory/format"
)

// TestInteroperability: the scenarios of the AuthZEN working group, decided by the directory and by a policy.
func TestInteroperability(t *testing.T) {
	people, err := format.Load(context.Background(), "testdata/todo/directory.yaml", format.Options{Manifest: "testdata/todo/manifest.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	rego, err := os.ReadFile("testdata/todo/policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	scenarios := readScenarios(t)
	for name, with := range map[string]authzen.Config{"directory": {}, "policy": {Decision: "authzen/allow"}} {
		d := open(t, people, map[string]string{"todo.rego": string(rego)}, with)
		for _, s := range scenarios {
			var questions []json.RawMessage
			for i := range s.asked {
				questions = append(questions, json.RawMessage(s.asked[i]))
				if status, got := d.ask(t, "/access/v1/evaluation", s.asked[i]); status != http.StatusOK || got != s.want[i] {
					t.Errorf("%s, %s: %s: %d %s, want %s", name, s.title, s.asked[i], status, got, s.want[i])
				}
			}
			batch, err := json.Marshal(map[string]any{"evaluations": questions})
			if err != nil {
				t.Fatal(err)
			}
			want := `{"evaluations":[` + strings.Join(s.want, ",") + `]}`
			if status, got := d.ask(t, "/access/v1/evaluations", string(batch)); status != http.StatusOK || got != want {
				t.Errorf("%s, %s, as a batch: %d %s", name, s.title, status, got)
			}
		}
	}
}

// scenario is questions with their answers.
type scenario struct {
	title       string
	asked, want []string
}

func readScenarios(t *testing.T) (all []scenario) {
	t.Helper()
	text, err := os.ReadFile("testdata/todo/decisions.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if title, ok := strings.CutPrefix(line, "## "); ok {
			all = append(all, scenario{title: title})
		}
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		asked := question(f[0], f[1], f[2])
		if owner := f[3]; owner != "-" {
			asked = strings.TrimSuffix(asked, "}}") + `,"properties":{"ownerID":` + strconv.Quote(owner) + `}}}`
		}
		s := &all[len(all)-1]
		s.asked, s.want = append(s.asked, asked), append(s.want, `{"decision":`+f[4]+`}`)
	}
	if len(all) != 6 || len(all[1].asked) != 40 {
		t.Fatalf("%d scenarios", len(all))
	}
	return all
}
