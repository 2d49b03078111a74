package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

const logPolicy = `package system.log

mask contains "/input/attributes/request/http/host"

mask contains {"op": "upsert", "path": "/request/host", "value": "hidden"} if input.outcome == "allow"

drop if input.request.method == "DELETE"
`

// event is what the test looks at in a line of the decision log.
type event struct {
	Outcome string
	Erased  []string
	Masked  []string
	Request struct{ Host string }
	Input   *struct {
		Attributes struct {
			Request struct{ HTTP map[string]any }
		}
	}
}

// logged waits until the log has n lines.
func (p *process) logged(n int) (events []event) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("waiting for %d decisions", n), func() error {
		text, err := os.ReadFile(p.path("decisions.log"))
		if err != nil {
			return err
		}
		events = nil
		for line := range strings.Lines(string(text)) {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return err
			}
			events = append(events, e)
		}
		if len(events) != n {
			return fmt.Errorf("there are %d", len(events))
		}
		return nil
	})
	return events
}

// isMasked tells whether the policy's mask was applied.
func (e event) isMasked() error {
	if e.Request.Host != "hidden" || fmt.Sprint(e.Erased, e.Masked) != "[/input/attributes/request/http/host] [/request/host]" || e.Input == nil ||
		e.Input.Attributes.Request.HTTP["host"] != nil || e.Input.Attributes.Request.HTTP["method"] != "GET" {
		return fmt.Errorf("%+v", e)
	}
	return nil
}

// TestMasksOfThePolicy masks what the active policy says, also what was decided before a kill, for which the next process waits.
func TestMasksOfThePolicy(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain+"state_dir: state\ndecision_log: {file: /dev/full}\n")
	write(t, p.path("policy", "log.rego"), logPolicy)
	p.ready()
	ask := func() {
		t.Helper()
		if code, _, err := check(t.Context(), dial(t, p.grpc, nil)); err != nil || code != 200 {
			t.Fatalf("%d %v", code, err)
		}
	}
	ask()
	eventually(t, "waiting for a note that there are masks", func() error {
		_, err := os.Stat(p.path("state", "decisions", "rules"))
		return err
	})
	p.signal(syscall.SIGKILL)
	p.exit()

	p = p.again(plain + "state_dir: state\ndecision_log: {file: decisions.log}\n")
	write(t, p.path("policy", "authz.rego"), "package envoy.authz\n\nallow if")
	p.flags = []string{"--wait-for-policy"}
	p.start()
	eventually(t, "waiting for the admin port", func() error {
		if code, body := p.get("/healthz"); code != 200 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if events := p.logged(0); len(events) > 0 {
		t.Errorf("%+v", events)
	}
	write(t, p.path("policy", "authz.rego"), allowAll)
	if err := p.logged(1)[0].isMasked(); err != nil {
		t.Error(err)
	}
	eventually(t, "waiting for the policy", func() error {
		if code, body := p.get("/readyz"); code != 200 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	ask()
	if err := p.logged(2)[1].isMasked(); err != nil {
		t.Error(err)
	}

	write(t, p.path("policy", "log.rego"), "package system.log\n\nmask := 1 if input.input\n\nmask := 2 if input.input\n")
	eventually(t, "waiting for a mask that fails", func() error {
		ask()
		if _, metrics := p.get("/metrics"); !strings.Contains(metrics, `gatehouse_decision_log_rule_errors_total{rule="mask"} 1`) {
			return fmt.Errorf("no error is counted")
		}
		return nil
	})
	p.signal(syscall.SIGTERM)
	p.exit()
	text, err := os.ReadFile(p.path("decisions.log"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, `"erased":["/input"`) || strings.Contains(last, `"input":`) {
		t.Errorf("a mask that fails leaves %s", last)
	}
}

// again is a process in the same folder, with another configuration, after the one before has ended.
func (p *process) again(config string) *process {
	next := &process{t: p.t, dir: p.dir, grpc: p.grpc, admin: p.admin, ended: make(chan struct{})}
	next.configure(config)
	return next
}
