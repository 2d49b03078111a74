package devstack

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"gatehouse/children"
	"gatehouse/config"
	"gatehouse/routes"
	"gatehouse/terminal"
	"gatehouse/trial"
	"gatehouse/watch"
)

// awaited is one of the three on its way up.
type awaited struct {
	name  string
	ready func(context.Context) bool
	said  string // once it is
}

// tell says of each of the three when it is ready, and then what to do with them. It goes on waiting, and says for whom: what is wrong may be
// corrected while it runs.
func (s *stack) tell(ctx context.Context) error {
	app := "its server"
	if p := s.cfg.Project; len(s.cfg.Command) == 0 {
		app = map[string]string{routes.Flask: "flask run", routes.FastAPI: "uvicorn", routes.Django: "manage.py runserver"}[p.Framework] + " with " + p.Target
	}
	waiting := []awaited{
		{"gatehouse", s.gatehouseReady, "ready; " + terminal.Path(s.cfg.File)},
		{"app", s.appReady, fmt.Sprintf("ready: %s, on http://%s", app, children.Loopback(s.ports.app))},
		{"envoy", s.envoyReady, fmt.Sprintf("ready: Envoy %s, %s, on %s", cmp.Or(s.envoy.version, "of an unknown version"), s.envoy.from, s.url)},
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	slow := time.NewTimer(slowToUp)
	defer slow.Stop()
	shown := false
	for {
		waiting = slices.DeleteFunc(waiting, func(a awaited) bool {
			up := a.ready(ctx)
			if up {
				s.log.say(a.name, a.said)
			}
			return up
		})
		broken := len(waiting) == 1 && waiting[0].name == "gatehouse" && s.log.failed.Load()
		if (broken || len(waiting) == 0) && !shown {
			shown = true
			if err := s.summary(broken); err != nil {
				return err
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-slow.C:
			for _, a := range waiting {
				s.log.note(fmt.Sprintf("still waiting for %s; its lines are above, and it is reloaded when files change", full(a.name)))
			}
		case <-tick.C:
		}
	}
}

func (s *stack) gatehouseReady(context.Context) bool {
	v := s.gatehouse.Gate().View()
	return v != nil && v.Ready() == nil
}

func (s *stack) appReady(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", children.Loopback(s.ports.app))
	return err == nil && conn.Close() == nil
}

// envoyReady asks Envoy's admin page, which is on a socket.
func (s *stack) envoyReady(ctx context.Context) bool {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.adminSocket())
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy/ready", nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10))
	return resp.StatusCode == http.StatusOK
}

// summary says where all is, and what to try.
func (s *stack) summary(broken bool) error {
	if err := os.WriteFile(s.urlFile(), []byte(s.url), 0o600); err != nil {
		return fmt.Errorf("keeping the address: %w", err)
	}
	tests := s.tests()
	if err := s.users.find(s.gatehouse.Gate().View().Directory, tests, time.Now()); err != nil {
		return err
	}
	p := s.cfg.Out
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s   the application, behind Envoy and Gatehouse\n", p.Paint(terminal.Bold, s.url))
	fmt.Fprintf(&b, "%s\n", p.Paint(terminal.Faint, fmt.Sprintf("http://%s   the application alone: whoever is on this machine can reach it there, past Gatehouse", children.Loopback(s.ports.app))))
	fmt.Fprintf(&b, "%s\n\n", p.Paint(terminal.Faint, fmt.Sprintf("http://%s/status   Gatehouse; also /metrics and /readyz", children.Loopback(s.ports.admin))))
	if broken {
		fmt.Fprintf(&b, "Every request is denied (503 not_ready) until what Gatehouse says above is corrected: save the file, and it is read again.\n\n")
	}
	path := s.examplePath(tests)
	width := len("anyone")
	for _, u := range s.users.list {
		width = max(width, len(terminal.Visible(s.label(u))))
	}
	s.row(&b, user{Name: "anyone"}, width, path)
	for _, u := range s.users.list {
		s.row(&b, u, width, path)
	}
	fmt.Fprintf(&b, "\n%s\n", p.Paint(terminal.Faint, "Policy, directory, routes, gatehouse.yaml and the application are reloaded as you save them. Ctrl-C ends all."))
	fmt.Fprintf(&b, "%s\n", p.Paint(terminal.Faint, "Another user: "+s.mintCommand()))
	fmt.Fprintf(&b, "%s\n\n", p.Paint(terminal.Faint, s.roleHint()))
	s.log.raw(b.String())
	return nil
}

// mintCommand makes a token for somebody else.
func (s *stack) mintCommand() string {
	return fmt.Sprintf("gatehouse token mint --sub NAME --role ROLE --iss %s --aud %s --dir %s", Issuer, Audience, terminal.ShellWord(s.cfg.State))
}

// roleHint says where rules find the role of such a token.
func (s *stack) roleHint() string {
	if s.users.as.Directory.Configured() {
		return "--role is a role in the token, input.identity.roles; those in input.user.roles are the directory's, for users that it has."
	}
	return "--role is a role in the token: input.identity.roles."
}

// row is a user with the command that asks as that user.
func (s *stack) row(w io.Writer, u user, width int, path string) {
	options := ""
	if strings.HasPrefix(s.url, "https:") {
		options = "-k "
	}
	if u.File != "" {
		options += "-H " + terminal.ShellWord("@"+u.File) + " "
	}
	fmt.Fprintf(w, "  %-*s  curl -i %s%s\n", width, terminal.Visible(s.label(u)), options, terminal.ShellWord(s.url+path))
}

// label is a user's name and roles. Where there is a directory it is said of roles that they are not from there.
func (s *stack) label(u user) string {
	if len(u.Roles) == 0 {
		return u.Name
	}
	text := u.Name + " (" + strings.Join(u.Roles[:min(len(u.Roles), 4)], ", ")
	if u.roles && s.users.as.Directory.Configured() {
		text += ", in the token"
	}
	return text + ")"
}

// tests are the tables of requests beside gatehouse.yaml. What is wrong with them is gatehouse test's to say.
func (s *stack) tests() []*trial.Test {
	_, files, err := trial.FindFiles(s.cfg.File, nil)
	if err != nil {
		return nil
	}
	tests, _, err := trial.ReadFiles(files, false)
	if err != nil {
		return nil
	}
	return tests
}

// examplePath is a path to show: of a route without parameters, else of a test, else the root.
func (s *stack) examplePath(tests []*trial.Test) string {
	best, least := "", 1<<20
	consider := func(path string, more int) {
		if w := plainness(path) + more; w < least {
			best, least = path, w
		}
	}
	for _, table := range s.gatehouse.Gate().View().Routes {
		for _, r := range table.Routes() {
			if path, fixed := table.FixedPath(r); fixed && (r.Methods == nil || slices.Contains(r.Methods, http.MethodGet)) {
				consider(path, 0)
			}
		}
	}
	for _, t := range tests {
		if t.Request.Method == http.MethodGet && strings.HasPrefix(t.Request.Path, "/") {
			consider(t.Request.Path, 500)
		}
	}
	return cmp.Or(best, "/")
}

// plainness is low for paths that say something about an application.
func plainness(path string) int {
	dull := []string{"/admin", "/docs", "/redoc", "/openapi", "/health", "/static", "/favicon"}
	if path == "/" || strings.Contains(path, ".") || slices.ContainsFunc(dull, func(p string) bool { return strings.HasPrefix(path, p) }) {
		return 1000 + len(path)
	}
	return len(path)
}

// renew makes new tokens before the old ones end, and shows users of roles that are new. It returns when ctx ends.
func (s *stack) renew(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var serial uint64
	renewed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			v := s.gatehouse.Gate().View()
			if v.Serial == serial && now.Sub(renewed) < renewEvery {
				continue
			}
			serial, renewed = v.Serial, now
			tests := s.tests()
			before := s.users.list
			if err := s.users.find(v.Directory, tests, now); err != nil {
				s.log.note(err.Error())
				continue
			}
			var b strings.Builder
			for _, u := range s.users.list {
				if !slices.ContainsFunc(before, func(o user) bool { return s.label(o) == s.label(u) }) {
					s.row(&b, u, 0, s.examplePath(tests))
				}
			}
			s.log.raw(b.String())
		}
	}
}

// reload has Gatehouse read gatehouse.yaml again whenever it changes. It returns when ctx ends.
func (s *stack) reload(ctx context.Context) {
	before, _ := config.ReadBounded(s.cfg.File)
	watch.Files(ctx, watch.Config{Targets: watch.Paths(s.cfg.File)}, func() {
		text, err := config.ReadBounded(s.cfg.File)
		if err == nil && bytes.Equal(text, before) { // touched, or told twice of one change
			return
		}
		before = text
		select {
		case s.log.reloads <- syscall.SIGHUP:
		default: // one is on its way
		}
	})
}

// Folders of this user, for what is kept between runs.

// StateDir is where the local issuer of a project is: $XDG_STATE_HOME or ~/.local/state, below gatehouse.
func StateDir(gatehouseYAML string) (string, error) {
	dir, err := filepath.Abs(filepath.Dir(gatehouseYAML))
	if err != nil {
		return "", err
	}
	base := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no folder for the local issuer's key: %w", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "gatehouse", fileName(filepath.Base(dir), map[string]bool{})+"-"+shortHash(dir)), nil
}

// shortHash tells folders of one name apart.
func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

// CacheDir is where an Envoy that was fetched is.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder to keep Envoy in: %w", err)
	}
	return filepath.Join(dir, "gatehouse"), nil
}
