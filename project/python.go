package project

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// findPython finds the interpreter: the one that is named, that of the active virtual environment, or that of one in the project.
func (p *Project) findPython(named string) {
	if named != "" {
		p.Python, p.HasVenv = named, true
		if isFolder(named) { // the environment and not its interpreter
			if python := interpreter(named); python != "" {
				p.Python = python
			}
		}
		if strings.ContainsRune(p.Python, filepath.Separator) {
			if abs, err := filepath.Abs(p.Python); err == nil {
				p.Python = abs
			}
		}
		return
	}
	const change = "--python PATH"
	try := func(dir, why string) bool {
		python := ""
		if dir != "" {
			python = interpreter(dir)
		}
		if python == "" {
			return false
		}
		shown := python
		if rel, err := filepath.Rel(p.root, python); err == nil && !strings.HasPrefix(rel, filepath.Join("..", "..")) {
			shown = filepath.ToSlash(rel)
		}
		p.Python, p.HasVenv = python, true
		p.assume("interpreter  "+shown+why, change)
		return true
	}
	if try(os.Getenv("VIRTUAL_ENV"), ", the active virtual environment") {
		return
	}
	for _, dir := range []string{p.root, p.Dir, filepath.Dir(p.root)} {
		for _, name := range []string{".venv", "venv", "env", ".env", "virtualenv"} {
			if dir == filepath.Dir(p.root) && name != ".venv" { // a workspace of several projects
				continue
			}
			if try(filepath.Join(dir, name), "") {
				return
			}
		}
	}
	if try(os.Getenv("CONDA_PREFIX"), ", the active conda environment") {
		return
	}
	p.Python = "python3"
	p.assume("interpreter  python3 as PATH has it: there is no .venv or venv here", change)
}

// interpreter is that of a virtual environment's folder; "" where it is none.
func interpreter(dir string) string {
	for _, name := range []string{"python", "python3"} {
		if file := filepath.Join(dir, "bin", name); isFile(file) {
			return file
		}
	}
	return ""
}

// NoVenv is what to do where the interpreter is not the application's.
func (p *Project) NoVenv() string {
	if p.HasVenv {
		return ""
	}
	install := "pip install " + map[string]string{"flask": "flask", "fastapi": "fastapi uvicorn", "django": "django"}[p.Framework]
	for _, file := range []string{"requirements.txt", "pyproject.toml"} {
		if isFile(filepath.Join(p.root, file)) {
			install = map[string]string{"requirements.txt": "pip install -r requirements.txt", "pyproject.toml": "pip install -e ."}[file]
			break
		}
	}
	return "no virtual environment was found: --python names its interpreter, or make one:\n  python3 -m venv .venv && .venv/bin/" + install
}

// Hint adds to the error of an import that found no module what to do where the interpreter may not be the application's. p may be nil.
func (p *Project) Hint(err error) error {
	if p == nil || p.HasVenv {
		return err
	}
	return fmt.Errorf("%w\n%s", err, p.NoVenv())
}
