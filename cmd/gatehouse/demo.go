package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
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
		Example: `  gatehouse demo
  gatehouse demo --dir /tmp/demo`,
		Args: grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if root == "" {
				var err error
				if root, err = sandbox.Checkout(); err != nil {
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
	out := sandbox.Show{Printer: terminal.To(w)}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding our own binary: %w", err)
	}
	started := time.Now()
	out.Heading("A Flask app that knows nothing about authorization, Envoy in front of it, and Gatehouse beside Envoy.")
	s, err := sandbox.Start(ctx, sandbox.Config{
		Root: root, WorkDir: dir, Gatehouse: binary, Progress: out.Note,
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
func runDemo(ctx context.Context, s *sandbox.Sandbox, env string, out sandbox.Show, started time.Time, stay bool) error {
	if err := s.WriteEnv(env); err != nil {
		return err
	}
	out.Note(fmt.Sprintf("all three are up after %.1f s; $URL is %s", time.Since(started).Seconds(), s.URL))
	out.Gap()
	err := s.Play(ctx, out.Line)
	out.Gap()
	if err != nil {
		return err
	}
	out.Note("every line came out as expected")
	if stay {
		out.Invite(s, env)
		<-ctx.Done()
		out.Gap()
		out.Note("stopping")
	}
	return nil
}
