package envoy_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// firstApp is an application that somebody has, and the one line that lets a viewer in.
type firstApp struct {
	name, rule, line string
	make             func(t *testing.T, dir string) (venv string)
}

// tutorial is docs/tutorial-first-app.md, whose commands these tests run.
func tutorial(t *testing.T) string {
	t.Helper()
	return read(t, filepath.Join(root, "docs", "tutorial-first-app.md"))
}

// codeBlocks are the indented parts of a page.
func codeBlocks(page string) (blocks []string) {
	var block strings.Builder
	end := func() {
		if text := strings.Trim(block.String(), "\n"); text != "" {
			blocks = append(blocks, text+"\n")
		}
		block.Reset()
	}
	for line := range strings.Lines(page) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			block.WriteString(code)
		} else if strings.TrimSpace(line) == "" {
			block.WriteString("\n")
		} else {
			end()
		}
	}
	end()
	return blocks
}

// block is the first part of the tutorial that begins so.
func block(t *testing.T, begin string) string {
	t.Helper()
	for _, b := range codeBlocks(tutorial(t)) {
		if strings.HasPrefix(b, begin) {
			return b
		}
	}
	t.Fatalf("docs/tutorial-first-app.md has no code that begins with %q", begin)
	return ""
}

func firstApps() []firstApp {
	return []firstApp{
		{"flask", "policy/GET/orders.rego", `allowed if "viewer" in input.user.roles`, func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "shop.py"), block(t, "from flask import"))
			return filepath.Dir(filepath.Dir(flaskPython(t)))
		}},
		{"fastapi", "policy/GET/items.rego", `allowed if "viewer" in input.user.roles`, func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "main.py"), read(t, filepath.Join("testdata", "firstapp", "main.py")))
			return filepath.Dir(filepath.Dir(pythonOf(t, "fastapi-items")))
		}},
		{"django", "policy/ANY/admin/login.rego", `GET if "viewer" in input.user.roles`, func(t *testing.T, dir string) string {
			python := pythonOf(t, "django-todo")
			if out, err := exec.CommandContext(t.Context(), python, "-m", "django", "startproject", "mysite", dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return filepath.Dir(filepath.Dir(python))
		}},
	}
}

// TestFirstApp measures the first hour: from an application to a first deny and a first allow through the real Envoy, with no more than the commands of
// the tutorial, one line of policy, and not a byte of the application changed. The times are printed.
func TestFirstApp(t *testing.T) {
	t.Parallel()
	commands := strings.Split(strings.TrimSpace(block(t, "python3 -m venv")), "\n")
	if len(commands) != 3 || commands[1] != "gatehouse init" || commands[2] != "gatehouse up" {
		t.Fatalf("the tutorial's commands are %q", commands)
	}
	for _, app := range firstApps() {
		t.Run(app.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(workDir(t), "my app") // folders have spaces
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			venv := app.make(t, dir)
			before := hashes(t, dir)
			if err := os.Symlink(venv, filepath.Join(dir, ".venv")); err != nil { // in place of the first command, whose time is that of a download
				t.Fatal(err)
			}
			began := time.Now()
			t.Log(gatehouse(t, dir, "init"))
			u := runUp(t, dir)
			anyone := strings.TrimSpace(u.await(`(?m)^  anyone +(curl .*)$`)[1])
			ann := strings.TrimSpace(u.await(`(?m)^  ann@example\.com \(viewer\) +(curl .*)$`)[1])
			for who, command := range map[string]string{"anyone": anyone, "ann": ann} {
				if app.name == "django" {
					command = strings.Replace(command, u.url()+"/", u.url()+"/admin/login/", 1)
					command = command[:strings.Index(command, "/admin/login/")+len("/admin/login/")]
				}
				wanted := map[string]int{"anyone": 401, "ann": 403}[who]
				if got := u.status(command); got != wanted {
					t.Errorf("%s: %s: %d, want %d", who, command, got, wanted)
				}
				if who == "ann" {
					ann = command
				} else {
					anyone = command
				}
			}
			deny := time.Since(began)
			edit(t, filepath.Join(dir, app.rule), app.line)
			for u.status(ann) != 200 {
				if time.Since(began) > 2*hangGuard {
					t.Fatalf("%s is never allowed:\n%s", ann, u.printed())
				}
			}
			allow := time.Since(began)
			if got := u.status(anyone); got != 401 {
				t.Errorf("anyone, with the rule for viewers: %d", got)
			}
			t.Logf("%s: 2 commands after the installation; first deny after %.1f s, first allow after %.1f s", app.name, deny.Seconds(), allow.Seconds())
			if app.name == "flask" {
				u.tutorialChecks(dir)
			}
			u.interrupt()
			for name, was := range before {
				if now := hashes(t, dir)[name]; now != was {
					t.Errorf("%s of the application was changed", name)
				}
			}
		})
	}
}

// tutorialChecks runs the tutorial's other commands.
func (u *upProcess) tutorialChecks(dir string) {
	for line := range strings.Lines(block(u.t, "gatehouse check")) {
		words := strings.Fields(line)
		c := exec.CommandContext(u.t.Context(), gatehouseBinary, words[1:]...)
		c.Dir = dir
		out, _ := c.CombinedOutput()
		wanted := 1
		if words[2] == "GET" && contains(line, "ann@") {
			wanted = 0
		}
		if got := c.ProcessState.ExitCode(); got != wanted {
			u.t.Errorf("%s: exit code %d, want %d: %s", line, got, wanted, out)
		}
	}
	added := strings.TrimSpace(block(u.t, "- allow: {as: ann"))
	table := filepath.Join(dir, "tests.yaml")
	amend(u.t, table, "- deny: {GET: /orders}", added)
	u.t.Log(gatehouse(u.t, dir, "test"))
	rule := filepath.Join(dir, "policy", "GET", "orders.rego")
	whole := read(u.t, rule)
	write(u.t, rule, whole+"allowed if tru\n")
	u.await(fmt.Sprintf(`(?m)^gatehouse \| error: .*policy/GET/orders\.rego:%d`, strings.Count(whole, "\n")+1))
	write(u.t, rule, whole)
}

// edit takes the # off one line.
func edit(t *testing.T, file, line string) {
	t.Helper()
	commented := regexp.MustCompile(`(?m)^# ` + regexp.QuoteMeta(line) + `( +#.*)?$`)
	text := read(t, file)
	if len(commented.FindAllString(text, -1)) != 1 {
		t.Fatalf("%s has not one line # %s:\n%s", file, line, text)
	}
	write(t, file, commented.ReplaceAllString(text, line))
}

// hashes are those of every file in a folder.
func hashes(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	sums := map[string][sha256.Size]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		sums[path] = sha256.Sum256(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

// upProcess is `gatehouse up` as a process.
type upProcess struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex // guards text
	text bytes.Buffer
	more chan struct{}
}

func runUp(t *testing.T, dir string, args ...string) *upProcess {
	t.Helper()
	u := &upProcess{t: t, done: make(chan struct{}), more: make(chan struct{}, 1)}
	port := freePort(t)
	u.cmd = exec.Command(gatehouseBinary, append([]string{"up", "--port", fmt.Sprint(port)}, args...)...)
	u.cmd.Dir = dir
	u.cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+workDir(t), "GATEHOUSE_ENVOY="+envoyBinary, "PYTHONDONTWRITEBYTECODE=1")
	out, err := u.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	u.cmd.Stderr = u.cmd.Stdout
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(u.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			u.mu.Lock()
			u.text.WriteString(lines.Text() + "\n")
			u.mu.Unlock()
			select {
			case u.more <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		_ = u.cmd.Process.Signal(syscall.SIGTERM)
		<-u.done
		_ = u.cmd.Wait()
		if t.Failed() {
			t.Log(u.printed())
		}
	})
	return u
}

func (u *upProcess) printed() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.text.String()
}

// await waits until something is printed.
func (u *upProcess) await(pattern string) []string {
	u.t.Helper()
	wanted := regexp.MustCompile(pattern)
	deadline := time.After(2 * hangGuard)
	for {
		if m := wanted.FindStringSubmatch(u.printed()); m != nil {
			return m
		}
		select {
		case <-u.more:
		case <-u.done:
			u.t.Fatalf("it ended without %q:\n%s", pattern, u.printed())
		case <-deadline:
			u.t.Fatalf("it does not print %q:\n%s", pattern, u.printed())
		}
	}
}

func (u *upProcess) url() string { return u.await(`ready: Envoy .* on (http://\S+)`)[1] }

// status runs a curl command as it is printed, for its status alone.
func (u *upProcess) status(command string) (status int) {
	u.t.Helper()
	out, err := exec.CommandContext(u.t.Context(), "sh", "-c", command+` -s -o /dev/null -w '%{http_code}'`).Output()
	if _, scanErr := fmt.Sscan(string(out), &status); err != nil || scanErr != nil {
		u.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return status
}

// interrupt presses Ctrl-C: it ends well, and nothing is left.
func (u *upProcess) interrupt() {
	u.t.Helper()
	addresses := []string{strings.TrimPrefix(u.url(), "http://"), u.await(`(?m)^app .* on http://(\S+)$`)[1], u.await(`http://(\S+)/status`)[1]}
	if err := u.cmd.Process.Signal(os.Interrupt); err != nil {
		u.t.Fatal(err)
	}
	<-u.done
	if err := u.cmd.Wait(); err != nil {
		u.t.Errorf("it ends with %v:\n%s", err, u.printed())
	}
	for _, address := range addresses {
		gone(u.t, address)
	}
}
