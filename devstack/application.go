package devstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gatehouse/children"
	"gatehouse/routes"
	"gatehouse/terminal"
)

// appCommand is the application's development server, or the command that was given.
func (s *stack) appCommand() children.Command {
	port := strconv.Itoa(s.ports.app)
	c := children.Command{Name: "the application", Env: append(os.Environ(), "PORT="+port, "PYTHONUNBUFFERED=1")}
	if len(s.cfg.Command) > 0 {
		for _, word := range s.cfg.Command {
			c.Argv = append(c.Argv, strings.ReplaceAll(word, "{port}", port))
		}
		return c
	}
	p := s.cfg.Project
	c.Dir, c.Env = p.Dir, append(c.Env, p.Env.List()...)
	argv, env := devServer(p.Framework, p.Target, p.Manage, port)
	c.Argv, c.Env = append([]string{p.Python}, argv...), append(c.Env, env...)
	return c
}

// devServer is a framework's own development server, which reloads what changes. Flask's debugger is off: its console runs any code.
func devServer(framework, target, manage, port string) (argv, env []string) {
	const host = "127.0.0.1"
	switch framework {
	case routes.Flask:
		return []string{"-m", "flask", "--app", target, "run", "--host", host, "--port", port, "--debug", "--no-debugger"}, nil
	case routes.Django:
		env = []string{"DJANGO_SETTINGS_MODULE=" + target}
		if manage != "" {
			return []string{filepath.Base(manage), "runserver", host + ":" + port}, env
		}
		return []string{"-m", "django", "runserver", host + ":" + port}, env
	}
	if !strings.Contains(target, ":") {
		target += ":app" // as gatehouse init reads it
	}
	argv = []string{"-m", "uvicorn", "--host", host, "--port", port, "--reload"}
	if app, called := strings.CutSuffix(target, "()"); called {
		return append(argv, "--factory", app), nil
	}
	return append(argv, target), nil
}

// serverPackages are what the development servers are in.
func serverPackage(framework string) string {
	if framework == routes.FastAPI {
		return "uvicorn"
	}
	return framework
}

// checkServer says before anything starts where the interpreter is not there, or has no server.
func (s *stack) checkServer(ctx context.Context) error {
	p := s.cfg.Project
	if p.Framework == routes.FastAPI && strings.Contains(p.Target, "(") && !strings.HasSuffix(p.Target, "()") {
		return fmt.Errorf("uvicorn calls no factory with arguments, as in %s: put the call into a module, or run the server yourself: gatehouse up -- COMMAND --port {port}", p.Target)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	name := serverPackage(p.Framework)
	out, err := exec.CommandContext(ctx, p.Python, "-c", "import "+name).CombinedOutput()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s is not there: name the application's interpreter with --python", p.Python)
	case strings.Contains(string(out), "ModuleNotFoundError"):
		hint := p.NoVenv()
		if hint == "" {
			hint = fmt.Sprintf("%s -m pip install %s", terminal.Path(p.Python), name)
		}
		return fmt.Errorf("%s has no %s, in which the application would run\n%s", terminal.Path(p.Python), name, hint)
	}
	return fmt.Errorf("%s cannot import %s%s", terminal.Path(p.Python), name, lastLine(string(out)))
}
