package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gatehouse/envoy/sandbox"
	"gatehouse/terminal"
)

func demoCommand() *cobra.Command {
	var root, dir string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run an unmodified Flask app behind Envoy and Gatehouse, and send requests",
		Long: `Starts examples/flask-orders, Gatehouse and Envoy on free loopback ports and sends requests through them: allowed and
denied ones, an explanation, a replay with a stricter policy, a relation added to the directory, an edited policy, and a broken one.
On a terminal everything then keeps running until Ctrl-C; otherwise the exit code is 0 if every step had the expected result. It needs a checkout, Python 3.10+ and, the first
time, network access (for Flask, gunicorn and Envoy, which are installed in .venv).`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if root == "" {
				var err error
				if root, err = checkout(); err != nil {
					return err
				}
			}
			if dir == "" {
				dir = filepath.Join(root, ".demo")
			}
			return demo(c.Context(), root, dir, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&root, "root", "", "the checkout (default: the one of the current directory)")
	c.Flags().StringVar(&dir, "dir", "", "working directory (default: .demo in the checkout)")
	return c
}

func demo(ctx context.Context, root, dir string, w io.Writer) error {
	interactive := terminal.Is(w) && terminal.Is(os.Stdin)
	out := printer{terminal.To(w)}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding our own binary: %w", err)
	}
	started := time.Now()
	out.heading("A Flask app that knows nothing about authorization, Envoy in front of it, and Gatehouse beside Envoy.")
	s, err := sandbox.Start(ctx, sandbox.Config{
		Root: root, WorkDir: dir, Gatehouse: binary, Progress: out.note,
	})
	if err == nil {
		err = errors.Join(runDemo(ctx, s, filepath.Join(dir, "env"), out, started, interactive), s.Close())
	}
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted before the end")
	}
	return err
}

// runDemo shows the transcript, and stays up until ctx ends where there is somebody to try things.
func runDemo(ctx context.Context, s *sandbox.Sandbox, env string, out printer, started time.Time, stay bool) error {
	if err := s.WriteEnv(env); err != nil {
		return err
	}
	out.note(fmt.Sprintf("all three are up after %.1f s; $URL is %s", time.Since(started).Seconds(), s.URL))
	out.gap()
	err := s.Play(ctx, out.line)
	out.gap()
	if err != nil {
		return err
	}
	out.note("every line came out as expected")
	if stay {
		out.invite(s, short(env))
		<-ctx.Done()
		out.gap()
		out.note("stopping")
	}
	return nil
}

// checkout is the directory, this one or one above, that has the example.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the checkout: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "examples", "flask-orders", "gatehouse.yaml")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("examples/flask-orders not found: run this in a checkout of Gatehouse, or name one with --root")
		}
	}
}

// short is a path as seen from the current directory, if that is shorter.
func short(path string) string {
	dir, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(dir, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}

// printer lays the transcript out.
type printer struct{ terminal.Printer }

func (p printer) heading(text string) { fmt.Fprintln(p.W, p.Paint(terminal.Bold, text)) }
func (p printer) note(text string)    { fmt.Fprintln(p.W, p.Paint(terminal.Faint, "  "+text)) }
func (p printer) gap()                { fmt.Fprintln(p.W) }

func (p printer) line(l sandbox.Line) {
	const titleWidth = 30
	title := l.Title + strings.Repeat(" ", max(0, titleWidth-utf8.RuneCountInString(l.Title)))
	if l.Command == "" {
		fmt.Fprintf(p.W, "%s      %s %s\n", p.Paint(terminal.Amber, "*"), p.Paint(terminal.Bold, title), l.Reason)
		return
	}
	mark, status := p.Paint(terminal.Green, "✓"), p.Paint(terminal.Green, fmt.Sprint(l.Got))
	if !l.OK() {
		mark, status = p.Paint(terminal.Red, "✗"), p.Paint(terminal.Red, fmt.Sprint(l.Got))
		l.Reason = fmt.Sprintf("expected %d: %s", l.Want, l.Reason)
	}
	fmt.Fprintf(p.W, "%s %s  %s %s\n", mark, status, p.Paint(terminal.Bold, title), l.Reason)
	fmt.Fprintf(p.W, "       %s\n", p.Paint(terminal.Faint, l.Command))
}

// invite says what to try while everything stays up.
func (p printer) invite(s *sandbox.Sandbox, env string) {
	p.gap()
	p.heading("It all stays up until you press Ctrl-C. In another terminal:")
	if _, err := exec.LookPath("curl"); err != nil {
		p.note("(curl is not installed here: install it to try these)")
	}
	const row = "  %-44s %s\n"
	p.gap()
	fmt.Fprintf(p.W, row, ". "+env, "# $URL and each person's token")
	fmt.Fprintf(p.W, row, `curl -i -H "$VERA" $URL/orders`, "# a viewer")
	fmt.Fprintf(p.W, row, `curl -i -H "$ALICE" $URL/users/bob/orders`, "# not hers")
	fmt.Fprintf(p.W, row, `curl -i -H "$ADA" -X DELETE $URL/orders/1`, "# an admin")
	p.gap()
	fmt.Fprintf(p.W, row, short(s.PolicyDir()), "the policy: save a file and it is in force")
	fmt.Fprintf(p.W, row, short(s.DirectoryDir()), "users by the sub of their token, roles, orders: likewise")
	fmt.Fprintf(p.W, row, short(s.DecisionLog()), "every decision, one JSON line each")
	fmt.Fprintf(p.W, row, s.AdminURL+"/status", "Gatehouse; also /metrics and /readyz")
	fmt.Fprintf(p.W, row, s.AppURL, "the app with nothing in front of it")
}
