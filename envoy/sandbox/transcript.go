package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// changeTimeout is how long the transcript waits for an edit to have its effect.
const changeTimeout = 5 * time.Second

// Line is one line of the transcript: a request and its answer, or an edit of a file.
type Line struct {
	Title     string // who does what, in a few words
	Command   string // the request as a shell command, with the names of WriteEnv; empty for an edit
	Want, Got int    // HTTP statuses; 0 for an edit
	Reason    string // why, in a few words
}

// OK says whether the line came out as expected.
func (l Line) OK() bool { return l.Want == l.Got }

// people are the callers that the transcript knows. Their tokens say who they are and no more: their roles are in the directory of
// flask-orders, and its data.json says what these may do.
var people = [...]string{"vera", "carl", "ada", "alice", "dave"}

// player holds what a transcript needs while it is played.
type player struct {
	*Sandbox
	show   func(Line)
	tokens map[string]string
	lines  int
	wrong  int
}

// Play runs the transcript against flask-orders: real requests through Envoy, why one was denied, all of them replayed
// against a stricter policy, a relation that is added to the directory, an edit of the policy that its own tests hold back, the same with its
// test, a broken policy, and a rollback. Each line is handed to show when it is known. The error is not nil if a
// line came out otherwise than expected, or if there was no answer at all. The directory is left with one relation more, the policy with
// one permission more and one test less than it was found, and rolled back over that.
func (s *Sandbox) Play(ctx context.Context, show func(Line)) error {
	p := &player{Sandbox: s, show: show, tokens: s.tokens()}
	for _, scene := range []func(context.Context) error{p.requests, p.explain, p.replay, p.share, p.editPolicy, p.breakPolicy, p.rollBack} {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	if p.wrong > 0 {
		return fmt.Errorf("%d of %d lines came out otherwise than expected; all output is in %s", p.wrong, p.lines, s.path("logs"))
	}
	return nil
}

func (s *Sandbox) tokens() map[string]string {
	tokens := map[string]string{"forged": s.ForgedToken("ada", "admin")}
	for _, who := range people {
		tokens[who] = s.Token(who)
	}
	return tokens
}

// The requests that the edit of the policy and the one of the directory turn from denied to allowed.
var (
	viewerDeletes = Call{Method: http.MethodDelete, Path: "/orders/3"}
	daveReads     = Call{Path: "/orders/1"}
)

func (p *player) requests(ctx context.Context) error {
	const lamp, yacht = `{"item":"lamp","amount":45}`, `{"item":"yacht","amount":90000}`
	for _, step := range []struct {
		title, who string
		call       Call
		want       int
		reason     string // if empty, what the answer says
	}{
		{"anyone sees the health page", "", Call{Path: "/healthz"}, 200, "the policy makes it public"},
		{"no token", "", Call{Path: "/orders"}, 401, ""},
		{"a forged token", "forged", Call{Path: "/orders"}, 401, ""},
		{"a viewer reads", "vera", Call{Path: "/orders"}, 200, "by role, which her group in the directory has"},
		{"a viewer deletes", "vera", viewerDeletes, 403, ""},
		{"an admin deletes", "ada", Call{Method: http.MethodDelete, Path: "/orders/2"}, 200, "by role"},
		{"alice reads her own orders", "alice", Call{Path: "/users/alice/orders"}, 200, "by attribute: her own"},
		{"alice reads bob's orders", "alice", Call{Path: "/users/bob/orders"}, 403, ""},
		{"a clerk orders a lamp", "carl", Call{Method: http.MethodPost, Path: "/users/bob/orders", Body: lamp}, 201, "by role, within the limit"},
		{"a clerk orders a yacht", "carl", Call{Method: http.MethodPost, Path: "/users/bob/orders", Body: yacht}, 403, ""},
		{"dave reads order 4", "dave", Call{Path: "/orders/4"}, 200, "by relation: it is shared with him"},
		{"dave reads order 1", "dave", daveReads, 403, ""},
	} {
		answer, err := p.ask(ctx, step.who, step.call)
		if err != nil {
			return err
		}
		reason := step.reason
		if reason == "" || answer.Status != step.want {
			reason = answer.Reason()
		}
		p.print(Line{step.title, shellCommand(step.who, step.call), step.want, answer.Status, reason})
	}
	return nil
}

// explain asks why the viewer may not delete, by the id that the denial told, and shows what would have been allowed.
func (p *player) explain(ctx context.Context) error {
	answer, err := p.ask(ctx, "vera", viewerDeletes)
	if err != nil {
		return err
	}
	id := answer.Header.Get("X-Decision-Id")
	var out []byte
	for began := time.Now(); ; { // the entry is written beside the answer
		explain := exec.CommandContext(ctx, p.cfg.Gatehouse, "explain", id, "--log", p.DecisionLog(), "--config", p.path("gatehouse.yaml"))
		if out, err = explain.CombinedOutput(); err == nil {
			break
		}
		if ctx.Err() != nil || time.Since(began) > changeTimeout {
			return fmt.Errorf("gatehouse explain %s: %w: %s", id, err, out)
		}
	}
	const nearest = "would be allowed\n"
	_, changes, found := strings.Cut(string(out), nearest)
	if !found {
		return fmt.Errorf("gatehouse explain %s names nothing that would be allowed:\n%s", id, out)
	}
	changes, _, _ = strings.Cut(changes, "\n  asked ") // what follows is what the policy asked of the directory
	lines := strings.Split(strings.TrimSpace(changes), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	p.print(Line{Title: "gatehouse explain ID", Reason: "would be allowed " + strings.Join(lines, ", or ")})
	return nil
}

// replay puts the decisions so far to a policy under which clerks may not create orders any more, and shows what would change.
func (p *player) replay(ctx context.Context) error {
	const before, after = `"clerk": {"permissions": ["orders:read", "orders:create", `, `"clerk": {"permissions": ["orders:read", `
	stricter := p.path("stricter")
	if err := errors.Join(os.RemoveAll(stricter), os.CopyFS(stricter, os.DirFS(p.PolicyDir()))); err != nil {
		return fmt.Errorf("copying the policy: %w", err)
	}
	file := filepath.Join(stricter, "data.json")
	text, err := os.ReadFile(file)
	if err == nil && strings.Count(string(text), before) != 1 {
		err = fmt.Errorf("%s has no %s to edit", file, before)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(text), before, after, 1)), 0o644)
	}
	if err != nil {
		return fmt.Errorf("making a stricter policy: %w", err)
	}
	p.print(Line{Title: "stricter/data.json", Reason: `a copy of the policy, in which clerks have no "orders:create"`})
	out, err := exec.CommandContext(ctx, p.cfg.Gatehouse, "replay", "--log", p.DecisionLog(), "--config", p.path("gatehouse.yaml"), "--bundle", stricter).Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); !ok || failed.ExitCode() != 1 { // 1: there are changes
		return fmt.Errorf("gatehouse replay: %w: %s", err, out)
	}
	sum, changes, _ := strings.Cut(string(out), "\n")
	sum, _, _ = strings.Cut(sum, " (")
	group := strings.Fields(lastLine(strings.Split(strings.TrimSpace(changes), "\n")[0]))
	p.print(Line{Title: "gatehouse replay", Reason: sum + ": " + strings.Join(group[1:], " ")})
	return nil
}

// share adds a line to the directory's file, measures how long a request takes to flip, and asks why it did.
func (p *player) share(ctx context.Context) error {
	const line = "order:1#reader@user:dave"
	file := filepath.Join(p.DirectoryDir(), "directory.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the directory: %w", err)
	}
	p.print(Line{Title: "directory/directory.yaml", Reason: "a line added: " + line})
	saved := time.Now()
	if err := p.replace(file, strings.TrimRight(string(text), "\n")+"\n  - "+line+"\n"); err != nil {
		return err
	}
	if err := p.awaitAllowed(ctx, "dave reads order 1", "dave", daveReads, "it is shared with him", saved, "the line"); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, p.cfg.Gatehouse, "directory", "why", p.DirectoryDir(), "order:1#can_read@user:dave").CombinedOutput()
	if err != nil {
		return fmt.Errorf("gatehouse directory why: %w: %s", err, out)
	}
	p.print(Line{Title: "gatehouse directory why", Reason: lastLine(string(out))})
	return nil
}

// awaitAllowed asks until a request that was denied is allowed, and says how long after saved that is.
func (p *player) awaitAllowed(ctx context.Context, title, who string, call Call, reason string, saved time.Time, what string) error {
	answer, err := p.ask(ctx, who, call)
	for err == nil && answer.Status == http.StatusForbidden && time.Since(saved) < changeTimeout {
		answer, err = p.ask(ctx, who, call)
	}
	if err != nil {
		return err
	}
	reason = fmt.Sprintf("%s, %d ms after %s", reason, time.Since(saved).Milliseconds(), what)
	if answer.Status != http.StatusOK {
		reason = answer.Reason()
	}
	p.print(Line{title, shellCommand(who, call), http.StatusOK, answer.Status, reason})
	return nil
}

// editPolicy gives viewers one more permission. The policy's own test holds that back; without it, it is measured how long the
// request from before takes to flip.
func (p *player) editPolicy(ctx context.Context) error {
	const before, after = `"viewer": {"permissions": ["orders:read"`, `"viewer": {"permissions": ["orders:read", "orders:delete"`
	const test = "\tnot allowed(\"vera\", \"viewer\", \"DELETE /orders/1\", 0)\n"
	p.print(Line{Title: "policy/data.json", Reason: `edited: viewers get "orders:delete"`})
	seen := len(p.GatehouseLog())
	if err := p.edit("data.json", before, after); err != nil {
		return err
	}
	complaint, err := p.awaitLog(ctx, seen, "orders_test.rego")
	if err != nil {
		return err
	}
	p.print(Line{Title: "gatehouse logs", Reason: complaint})
	if err := p.expect(ctx, "a viewer deletes, as before", viewerDeletes, 403, "the policy's own test holds the edit back"); err != nil {
		return err
	}
	p.print(Line{Title: "policy/orders_test.rego", Reason: "edited: it does not say any more that viewers may not"})
	saved := time.Now()
	if err := p.edit("orders_test.rego", test, ""); err != nil {
		return err
	}
	return p.awaitAllowed(ctx, "a viewer deletes, as before", "vera", viewerDeletes, "the new policy decides", saved, "the edit")
}

// edit replaces the one place in a file of the policy that reads before.
func (p *player) edit(name, before, after string) error {
	text, err := os.ReadFile(filepath.Join(p.PolicyDir(), name))
	if err != nil {
		return fmt.Errorf("reading policy: %w", err)
	}
	if strings.Count(string(text), before) != 1 {
		return fmt.Errorf("%s has no %s to edit", name, before)
	}
	return p.save(name, strings.Replace(string(text), before, after, 1))
}

// expect asks as vera, and gives the reason where the answer has the status that is wanted.
func (p *player) expect(ctx context.Context, title string, call Call, want int, reason string) error {
	answer, err := p.ask(ctx, "vera", call)
	if err != nil {
		return err
	}
	if answer.Status != want {
		reason = answer.Reason()
	}
	p.print(Line{title, shellCommand("vera", call), want, answer.Status, reason})
	return nil
}

// rollBack takes the edit back by a command, while the files stay as they are.
func (p *player) rollBack(ctx context.Context) error {
	control := "unix:" + p.path("control.sock")
	out, err := exec.CommandContext(ctx, p.cfg.Gatehouse, "bundle", "rollback", "--control", control).CombinedOutput()
	if err != nil {
		return fmt.Errorf("gatehouse bundle rollback: %w: %s", err, out)
	}
	pinned := strings.TrimSpace(string(out))
	p.print(Line{Title: "gatehouse bundle rollback", Reason: "the policy from before, " + lastLine(pinned)})
	return p.expect(ctx, "a viewer deletes, as before", viewerDeletes, 403, "the old policy decides again, and the files are as they were")
}

// breakPolicy saves a policy that does not parse, waits for the log to say where, and asks again.
func (p *player) breakPolicy(ctx context.Context) error {
	whole, err := os.ReadFile(filepath.Join(p.PolicyDir(), "orders.rego"))
	if err != nil {
		return fmt.Errorf("reading policy: %w", err)
	}
	place := fmt.Sprintf("orders.rego:%d", strings.Count(string(whole), "\n")+1)
	p.print(Line{Title: "policy/orders.rego", Reason: "broken: the last line is not Rego any more"})
	seen := len(p.GatehouseLog())
	if err := p.save("orders.rego", string(whole)+"allow if ) oops\n"); err != nil {
		return err
	}
	complaint, err := p.awaitLog(ctx, seen, place)
	if err != nil {
		return err
	}
	p.print(Line{Title: "gatehouse logs", Reason: complaint})
	for _, step := range []struct {
		title string
		call  Call
		want  int
	}{
		{"a viewer reads", Call{Path: "/orders/1"}, 200},
		{"a viewer updates", Call{Method: http.MethodPut, Path: "/orders/1", Body: `{"item":"lamp","amount":1}`}, 403},
	} {
		if err := p.expect(ctx, step.title, step.call, step.want, "the old policy still decides"); err != nil {
			return err
		}
	}
	return p.save("orders.rego", string(whole))
}

func (p *player) print(l Line) {
	p.lines++
	if !l.OK() {
		p.wrong++
	}
	p.show(l)
}

func (p *player) ask(ctx context.Context, who string, c Call) (Answer, error) {
	c.Token = p.tokens[who]
	return p.Do(ctx, c)
}

// save replaces a file of the policy.
func (p *player) save(name, text string) error {
	return p.replace(filepath.Join(p.PolicyDir(), name), text)
}

// replace puts another file in place of one by renaming, as most editors do.
func (p *player) replace(file, text string) error {
	draft := p.path(filepath.Base(file) + ".draft") // outside of the watched folder, on the same file system
	if err := os.WriteFile(draft, []byte(text), 0o644); err != nil {
		return fmt.Errorf("saving %s: %w", filepath.Base(file), err)
	}
	if err := os.Rename(draft, file); err != nil {
		return fmt.Errorf("saving %s: %w", filepath.Base(file), err)
	}
	return nil
}

// awaitLog waits until a line of Gatehouse's log, after the first seen bytes, has text, and returns what it says.
func (p *player) awaitLog(ctx context.Context, seen int, text string) (string, error) {
	exact := regexp.MustCompile(regexp.QuoteMeta(text) + `\b`)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(changeTimeout)
	for {
		for line := range strings.Lines(p.GatehouseLog()[seen:]) {
			if exact.MatchString(line) && strings.HasSuffix(line, "\n") {
				return messageOf(line), nil
			}
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-deadline:
			return "", fmt.Errorf("gatehouse did not log %q within %v; its log is %s", text, changeTimeout, p.gatehouse.logFile)
		case <-tick.C:
		}
	}
}

// messageOf is what a log line says: its error where it is JSON and has one, else all of it.
func messageOf(line string) string {
	var fields struct{ Error string }
	if err := json.Unmarshal([]byte(line), &fields); err != nil || fields.Error == "" {
		return lastLine(line)
	}
	return lastLine(fields.Error)
}

// shellCommand is the call as a curl command that works after reading the file of WriteEnv.
func shellCommand(who string, c Call) string {
	words := []string{"curl"}
	post := c.Method == http.MethodPost && c.Body != "" // -d says so
	if c.Method != "" && c.Method != http.MethodGet && !post {
		words = append(words, "-X", c.Method)
	}
	if who != "" {
		words = append(words, `-H "$`+strings.ToUpper(who)+`"`)
	}
	if c.Body != "" {
		words = append(words, "-H content-type:application/json -d '"+c.Body+"'") // --json needs curl 7.82
	}
	return strings.Join(append(words, "$URL"+c.Path), " ")
}

// WriteEnv writes a file for a shell to read: $URL is Envoy, and $VERA and so on are each person's Authorization header.
func (s *Sandbox) WriteEnv(path string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "URL=%s\n", s.URL)
	for who, token := range s.tokens() {
		fmt.Fprintf(&b, "%s='Authorization: Bearer %s'\n", strings.ToUpper(who), token)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("writing shell variables: %w", err)
	}
	return nil
}
