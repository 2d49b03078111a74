// Package importer makes route tables: from a Flask, FastAPI, Starlette or Django application, imported by that
// application's own Python, from an OpenAPI description, and from the paths in a decision log. It owns the Python
// programs, and imports routes; nothing that serves requests imports it.
package importer

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"gatehouse/routes"
)

//go:embed programs/*.py
var importerFiles embed.FS

// importerScript concatenates the program's parts, its entry point last.
func importerScript() (string, error) {
	script := ""
	for _, name := range [...]string{"facts", "chain", "methods", "djangoproject", "importer"} {
		text, err := importerFiles.ReadFile("programs/" + name + ".py")
		if err != nil {
			return "", err
		}
		script += string(text) + "\n"
	}
	return script, nil
}

// PythonApp names an application whose routes are to be read. Its own Python imports the code; nothing is served.
type PythonApp struct {
	Framework string        // Flask, FastAPI (Starlette as well) or Django
	Target    string        // "module:app", "module:create_app()", or for Django the settings module
	Python    string        // the interpreter of the application's virtual environment; "" is python3
	Dir       string        // where the modules are; "" is the current directory
	Timeout   time.Duration // for the import; 0 is 60 seconds
	Env       []string      // further variables, as KEY=value
	Trust     []string      // middleware, as in "shop.middleware.Tenant", declared not to affect routing
}

// maxAnswer bounds the importer's output.
const maxAnswer = 16 << 20

// Python reads the routes of an application. Unsupported routes are in the table with the reason. The error is one
// line that says what failed and where, followed by the end of the application's traceback where it does not say what to do.
func Python(ctx context.Context, app PythonApp) (*routes.Table, []routes.Notice, error) {
	what := fmt.Sprintf("importing %s application %q", app.Framework, app.Target)
	framework := app.Framework
	if framework == routes.Starlette {
		framework = routes.FastAPI
	}
	if framework != routes.Flask && framework != routes.FastAPI && framework != routes.Django {
		return nil, nil, fmt.Errorf("%s: no Python framework", what)
	}
	answer, err := runImporter(ctx, app, framework)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	if answer.Error != "" {
		return nil, nil, fmt.Errorf("%s: %w", what, answer.failure(framework, app.Target))
	}
	table, notices, err := routes.ImportYAML(app.Target, answer.Table, answer.Facts)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	for _, note := range answer.Notes {
		notices = append(notices, routes.Notice{File: app.Target, Text: note})
	}
	return table, notices, nil
}

type importerAnswer struct {
	Table     json.RawMessage
	Notes     []string
	Facts     routes.Facts
	Error     string
	Missing   string // the module that Python did not find; "" where that is not the error
	Where     string
	Traceback []string
}

func (a *importerAnswer) failure(framework, target string) error {
	line, told := a.Error, false // what to do
	if a.Where != "" && !strings.Contains(a.Where, "/importlib/") {
		line += " at " + a.Where
	}
	module := map[string]string{routes.Flask: "werkzeug", routes.FastAPI: "starlette", routes.Django: "django"}[framework]
	missing, _, _ := strings.Cut(a.Missing, ".")
	switch missing {
	case "":
	case framework, module:
		told = true
		line += ": this Python does not have the framework; name the application's own with --python"
	case target[:strings.IndexAny(target+".", ".:")]:
		told = true
		line += ": name the directory that the application's modules are in with --dir"
	default:
		told = true
		line += ": if the application's own Python has it, name that with --python"
	}
	for _, l := range a.Traceback {
		if !told && !strings.Contains(l, `File "<frozen `) {
			line += "\n  " + l
		}
	}
	if a.Missing != "" {
		return &MissingModuleError{Module: a.Missing, text: line}
	}
	return errors.New(line)
}

// MissingModuleError is that Python did not find a module.
type MissingModuleError struct{ Module, text string }

func (e *MissingModuleError) Error() string { return e.text }

func runImporter(ctx context.Context, app PythonApp, framework string) (*importerAnswer, error) {
	timeout := app.Timeout
	if timeout == 0 {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	python := app.Python
	if python == "" {
		python = "python3"
	}
	script, err := importerScript()
	if err != nil {
		return nil, err
	}
	answer, answerEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	cmd := exec.CommandContext(ctx, python, append([]string{"-c", script, framework, app.Target}, app.Trust...)...)
	ownGroup(cmd)
	cmd.Dir = app.Dir
	cmd.Env = append(append(os.Environ(), app.Env...), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")
	cmd.ExtraFiles = []*os.File{answerEnd}
	cmd.WaitDelay = time.Second
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		answerEnd.Close()
		return nil, fmt.Errorf("starting %q: %w", python, err)
	}
	answerEnd.Close()
	read := make(chan []byte, 1)
	go func() { // goroutine: it only reads
		data, _ := io.ReadAll(io.LimitReader(answer, maxAnswer+1))
		read <- data
	}()
	err = cmd.Wait()
	_ = answer.SetReadDeadline(time.Now().Add(time.Second)) // a child process may keep the pipe open
	data := <-read
	var a importerAnswer
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, errors.New("interrupted")
	case ctx.Err() != nil:
		return nil, fmt.Errorf("not done after %s; give it longer with --timeout%s", timeout, said.lines())
	case len(data) > maxAnswer:
		return nil, fmt.Errorf("more than %d bytes of routes", maxAnswer)
	case len(data) == 0:
		return nil, fmt.Errorf("%s ended without an answer (%v)%s", python, err, said.lines())
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", python, err)
	}
	return &a, nil
}

// tail keeps the last bytes that a process printed.
type tail struct{ buf bytes.Buffer }

const maxTail = 4096

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > maxTail {
		p = p[len(p)-maxTail:]
	}
	if extra := t.buf.Len() + len(p) - maxTail; extra > 0 {
		t.buf.Next(extra)
	}
	t.buf.Write(p)
	return n, nil
}

// lines are the last few lines, indented.
func (t *tail) lines() string {
	all := strings.Split(strings.TrimSpace(t.buf.String()), "\n")
	if all[0] == "" {
		return ""
	}
	return "\n  " + strings.Join(all[max(0, len(all)-6):], "\n  ")
}
