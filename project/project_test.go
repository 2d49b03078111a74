package project_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/project"
)

// folder makes a folder with files.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// alone takes the variables away that name an application or an environment.
func alone(t testing.TB) {
	t.Helper()
	for _, name := range []string{"VIRTUAL_ENV", "CONDA_PREFIX", "FLASK_APP", "DJANGO_SETTINGS_MODULE"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
}

const (
	flaskApp   = "from flask import Flask\napp = Flask(__name__)\n"
	fastAPI    = "from fastapi import FastAPI\n\napi: FastAPI = FastAPI(\n    title='x')\n"
	factory    = "import flask\n\n\ndef create_app(config=None, *, x: dict[str, int] = {}):\n    return flask.Flask(__name__)\n"
	managePy   = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'conf.settings')\n"
	settingsPy = "ROOT_URLCONF = 'conf.urls'\nSECRET_KEY = 'x'\n"
)

// TestFind finds applications where people have them.
func TestFind(t *testing.T) {
	alone(t)
	for name, c := range map[string]struct {
		files  map[string]string
		wanted string // framework, target and folder
	}{
		"app.py":                    {map[string]string{"app.py": flaskApp}, "flask app:app ."},
		"main.py":                   {map[string]string{"main.py": fastAPI, "README": ""}, "fastapi main:api ."},
		"any module":                {map[string]string{"shop.py": flaskApp}, "flask shop:app ."},
		"a package":                 {map[string]string{"shop/__init__.py": factory}, "flask shop:create_app() ."},
		"a module of a package":     {map[string]string{"shop/__init__.py": "", "shop/main.py": fastAPI}, "fastapi shop.main:api ."},
		"src":                       {map[string]string{"src/shop/__init__.py": factory, "tests/app.py": flaskApp}, "flask shop:create_app() src"},
		"a folder":                  {map[string]string{"backend/main.py": fastAPI, "frontend/x.js": ""}, "fastapi main:api backend"},
		"wsgi.py before a factory":  {map[string]string{"wsgi.py": "from shop import create_app\napplication = create_app()\n", "shop/__init__.py": factory}, "flask wsgi:application ."},
		"asgi.py":                   {map[string]string{"asgi.py": "import shop\napp = shop.make_app()\n"}, "fastapi asgi:app ."},
		"Django":                    {map[string]string{"manage.py": managePy, "conf/settings.py": settingsPy, "app.py": flaskApp}, "django conf.settings ."},
		"Django's settings alone":   {map[string]string{"conf/settings.py": settingsPy, "conf/__init__.py": ""}, "django conf.settings ."},
		"Django below":              {map[string]string{"web/manage.py": managePy}, "django conf.settings web"},
		"FLASK_APP in .flaskenv":    {map[string]string{".flaskenv": "FLASK_APP=shop/site.py\n", "shop/__init__.py": flaskApp, "shop/site.py": flaskApp}, "flask shop.site:app ."},
		"settings in .env":          {map[string]string{".env": "DJANGO_SETTINGS_MODULE=conf.dev", "manage.py": managePy}, "django conf.dev ."},
		"not in an environment":     {map[string]string{"lib/pyvenv.cfg": "", "lib/app.py": flaskApp, "node_modules/app.py": flaskApp, ".x/app.py": flaskApp}, ""},
		"not in a test":             {map[string]string{"test_app.py": flaskApp, "conftest.py": flaskApp}, ""},
		"not in a function":         {map[string]string{"app.py": "from flask import Flask\ndef f():\n    app = Flask(__name__)\n"}, ""},
		"nothing":                   {nil, ""},
		"bytes":                     {map[string]string{"app.py": "\xff\x00\xfe app = Flask("}, ""},
		"a factory of another kind": {map[string]string{"app.py": "def create_app():\n    return 1\n"}, ""},
	} {
		dir := folder(t, c.files)
		p, err := project.Find(project.Wanted{Root: dir})
		if c.wanted == "" {
			if !errors.Is(err, project.ErrNone) {
				t.Errorf("%s: %+v %v", name, p, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		rel, err := filepath.Rel(dir, p.Dir)
		if got := p.Framework + " " + p.Target + " " + rel; err != nil || got != c.wanted {
			t.Errorf("%s: %s, want %s (%v)", name, got, c.wanted, err)
		}
	}
}

// TestFindNamed completes what is named, and says what was meant.
func TestFindNamed(t *testing.T) {
	alone(t)
	dir := folder(t, map[string]string{"shop/__init__.py": factory, "src/late.py": flaskApp, "conf/__init__.py": "", "conf/settings/__init__.py": "", "conf/settings/dev.py": settingsPy,
		"needs.py": "from flask import Flask\ndef create_app(config, *args, name: str = 'x', **more):\n    pass\n"})
	for _, c := range []struct{ framework, target, wanted, err string }{
		{"flask", "shop", "shop:create_app()", ""},
		{"flask", "shop:create_app", "shop:create_app", ""},
		{"flask", "late", "late", ""},
		{"flask", "installed:app", "installed:app", ""},
		{"flask", "shp:create_app()", "", `--flask shp:create_app(): there is no module "shp" in .: did you mean shop:create_app()?`},
		{"django", "conf", "", "--django conf: that package is no settings module: did you mean conf.settings.dev?"},
		{"django", "conf.settings", "", "did you mean conf.settings.dev?"},
		{"django", "conf.settings.dev", "conf.settings.dev", ""},
		{"django", "cnf.settings.dev", "", "did you mean conf.settings.dev?"},
	} {
		p, err := project.Find(project.Wanted{Root: dir, Framework: c.framework, Target: c.target})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s %s: %v, want %s", c.framework, c.target, err, c.err)
			}
		} else if err != nil || p.Target != c.wanted {
			t.Errorf("%s %s: %+v %v, want %s", c.framework, c.target, p, err, c.wanted)
		}
	}
	if _, err := project.Find(project.Wanted{Root: folder(t, map[string]string{"app.py": "from flask import Flask\ndef create_app(config, *args, name: str = f(1, 2), **more):\n    pass\n"})}); err == nil ||
		!strings.Contains(err.Error(), `app.py:2 is a factory that needs arguments (config): name it with them, such as --flask "app:create_app('...')"`) {
		t.Error(err)
	}
}

// TestPython finds the interpreter of the application's virtual environment.
func TestPython(t *testing.T) {
	alone(t)
	dir := folder(t, map[string]string{"src/app.py": flaskApp, "venv/bin/python": "", "requirements.txt": ""})
	find := func(w project.Wanted) *project.Project {
		t.Helper()
		w.Root = dir
		p, err := project.Find(w)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	venv := filepath.Join(dir, "venv", "bin", "python")
	if p := find(project.Wanted{}); p.Python != venv || !p.HasVenv || p.NoVenv() != "" {
		t.Errorf("%+v", p)
	}
	if p := find(project.Wanted{Python: filepath.Join(dir, "venv")}); p.Python != venv {
		t.Errorf("the folder of an environment: %s", p.Python)
	}
	active := folder(t, map[string]string{"bin/python": ""})
	t.Setenv("VIRTUAL_ENV", active)
	if p := find(project.Wanted{}); p.Python != filepath.Join(active, "bin", "python") {
		t.Errorf("the active environment: %s", p.Python)
	}
	os.Unsetenv("VIRTUAL_ENV")
	if err := os.RemoveAll(filepath.Join(dir, "venv")); err != nil {
		t.Fatal(err)
	}
	p := find(project.Wanted{})
	if p.Python != "python3" || p.HasVenv || !strings.HasSuffix(p.NoVenv(), "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt") {
		t.Errorf("%+v %s", p, p.NoVenv())
	}
	if err := p.Hint(errors.New("a module is not there")); !strings.Contains(err.Error(), "python3 -m venv .venv") {
		t.Error(err)
	}
}

// TestEnv reads .env and .flaskenv as flask run does, and shows no value where they are wrong.
func TestEnv(t *testing.T) {
	alone(t)
	t.Setenv("SET_BEFORE", "1")
	dir := folder(t, map[string]string{"app.py": flaskApp,
		".env": "# a comment\nexport A=\"with space\"\nB='$A'\nSET_BEFORE=2\nURL=postgres://u:p@h/db?x=1#y\n", ".flaskenv": "A=2\nC=3\n"})
	p, err := project.Find(project.Wanted{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Env.List(), "|"); !strings.HasPrefix(got, "A=with space|B=$A|C=3|URL=postgres://u:p@h/db?x=1") {
		t.Error(got)
	}
	for _, text := range []string{"GOOD=1\nsecret word\n", "A='secret\n", "\x00secret", strings.Repeat("secret=x\n", 1<<16)} {
		_, err := project.Find(project.Wanted{Root: folder(t, map[string]string{"app.py": flaskApp, ".env": text})})
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), ".env: ") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// FuzzFind holds that no source, .env or name of an application makes it panic.
func FuzzFind(f *testing.F) {
	alone(f)
	f.Add(flaskApp, "A=1", "app:app")
	f.Add(factory, "export A='x", "app")
	f.Add("def create_app(a, b=(1,2), *c):\n  Flask(", "", "")
	f.Fuzz(func(t *testing.T, source, env, target string) {
		dir := folder(t, map[string]string{"app.py": source, ".env": env})
		framework := ""
		if target != "" {
			framework = "flask"
		}
		p, err := project.Find(project.Wanted{Root: dir, Framework: framework, Target: target})
		if err == nil {
			p.Traits()
		}
	})
}
