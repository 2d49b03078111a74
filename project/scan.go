package project

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gatehouse/routes"
)

const (
	maxSource = 256 << 10 // bytes of one file that are looked at
	maxFiles  = 3000      // that are read for one project
)

// scan reads the sources of a project, within limits.
type scan struct {
	root  string
	files int
}

// candidate is something that may be the application.
type candidate struct {
	framework, target, dir string
	place                  string // file:line, for people
	needs                  string // arguments that a factory cannot do without
	rank                   int    // the highest is taken
}

// notCode are folders without modules of the application.
var notCode = []string{"node_modules", "venv", "env", "virtualenv", "site-packages", "dist", "build", "docs", "test", "tests", "migrations", "alembic", "static", "templates",
	"policy", "directory", "__pycache__", "htmlcov"}

// usualModules are where an application mostly is, the likeliest first.
var usualModules = []string{"app", "main", "wsgi", "asgi", "application", "server", "api", "run"}

// folders are those in which modules may be found: the project's own, src, and folders in it that are no packages.
func (s *scan) folders() []string {
	dirs := []string{s.root}
	for _, name := range append([]string{"src"}, subfolders(s.root)...) {
		dir := filepath.Join(s.root, name)
		if !slices.Contains(dirs, dir) && isFolder(dir) && !isFile(filepath.Join(dir, "__init__.py")) && (name == "src" || len(modulesIn(dir)) > 0) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// subfolders are the folders that may hold code.
func subfolders(dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() && !strings.HasPrefix(name, ".") && !slices.Contains(notCode, name) && !strings.HasSuffix(name, ".egg-info") {
			if !isFile(filepath.Join(dir, name, "pyvenv.cfg")) && len(names) < 100 {
				names = append(names, name)
			}
		}
	}
	return names
}

// modulesIn are the modules and packages of a folder, sorted.
func modulesIn(dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		name := e.Name()
		if module, ok := strings.CutSuffix(name, ".py"); ok && !e.IsDir() {
			names = append(names, module)
		} else if e.IsDir() && isFile(filepath.Join(dir, name, "__init__.py")) {
			names = append(names, name)
		}
	}
	return names
}

// read is the text of a file, cut where it is long; "" where it cannot be read, or where enough was read.
func (s *scan) read(file string) string {
	if s.files++; s.files > maxFiles {
		return ""
	}
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSource))
	if err != nil {
		return ""
	}
	return string(bytes.ToValidUTF8(text, nil))
}

// rel is a path as the project's reader knows it.
func (s *scan) rel(path string) string {
	if rel, err := filepath.Rel(s.root, path); err == nil && !strings.HasPrefix(rel, "..") {
		return filepath.ToSlash(rel)
	}
	return path
}

// others are what else might have been meant, as flags.
func (s *scan) others(found []candidate, best candidate) string {
	var names []string
	for _, c := range found {
		name := fmt.Sprintf("--%s %s", c.framework, c.target)
		if c.target != best.target && c.needs == "" && !slices.Contains(names, name) && len(names) < 3 && c.rank >= best.rank-rankObject {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// What makes a candidate likely.
const (
	rankNamed  = 1000 // a variable of the environment, or manage.py, says it
	rankObject = 100  // an application
	rankMade   = 90   // what a factory returned
	rankCalled = 50   // a factory
)

var (
	objectText  = regexp.MustCompile(`(?m)^([A-Za-z_]\w*)[ \t]*(?::[^=\n]+)?=[ \t]*(?:flask\.|fastapi\.|starlette\.applications\.)?(Flask|FastAPI|Starlette)\(`)
	madeText    = regexp.MustCompile(`(?m)^([A-Za-z_]\w*)[ \t]*(?::[^=\n]+)?=[ \t]*(?:\w+\.)*((?:create|make|build|get)_(?:\w+_)?app(?:lication)?)\(`)
	factoryText = regexp.MustCompile(`(?m)^def[ \t]+((?:create|make|build)_(?:\w+_)?app(?:lication)?)[ \t]*\(((?:[^()]|\([^()]*\))*)\)`)
	flaskText   = regexp.MustCompile(`\bFlask\(|(?m)^\s*(?:from|import)\s+flask\b`)
	asgiText    = regexp.MustCompile(`\b(?:FastAPI|Starlette)\(|(?m)^\s*(?:from|import)\s+(?:fastapi|starlette)\b`)
	manageText  = regexp.MustCompile(`DJANGO_SETTINGS_MODULE['"]\s*,\s*['"]([\w.]+)['"]`)
)

// candidates are those in one folder of modules.
func (s *scan) candidates(dir string, env Env) (found []candidate) {
	if file := filepath.Join(dir, "manage.py"); isFile(file) {
		settings := env.get("DJANGO_SETTINGS_MODULE")
		if m := manageText.FindStringSubmatch(s.read(file)); settings == "" && m != nil {
			settings = m[1]
		}
		if settings != "" {
			found = append(found, candidate{framework: routes.Django, target: settings, dir: dir, place: s.rel(file), rank: rankNamed})
		}
	}
	if app := env.get("FLASK_APP"); app != "" && len(found) == 0 {
		if c, ok := s.flaskApp(dir, app); ok {
			found = append(found, c)
		}
	}
	modules := modulesIn(dir)
	for i, module := range ordered(modules) {
		if file := filepath.Join(dir, module+".py"); isFile(file) && module != "manage" {
			found = append(found, ranked(s.inFile(dir, module, file), -i)...)
			continue
		}
		if slices.Contains(notCode, module) {
			continue
		}
		inner := ordered(modulesIn(filepath.Join(dir, module)))
		for j, name := range append([]string{"__init__"}, inner...) {
			file, full := filepath.Join(dir, module, name+".py"), module+"."+name
			if name == "__init__" {
				full = module
			}
			if !isFile(file) {
				continue
			}
			if name == "settings" && settingsText.MatchString(s.read(file)) && strings.Contains(s.read(file), "ROOT_URLCONF") {
				found = append(found, candidate{framework: routes.Django, target: full, dir: dir, place: s.rel(file), rank: rankObject})
			}
			found = append(found, ranked(s.inFile(dir, full, file), -i-j)...)
		}
	}
	return found
}

// ordered puts the usual modules first.
func ordered(modules []string) []string {
	at := func(name string) int {
		if i := slices.Index(usualModules, name); i >= 0 {
			return i
		}
		return len(usualModules)
	}
	out := slices.DeleteFunc(slices.Clone(modules), func(m string) bool {
		return m == "conftest" || m == "setup" || strings.HasPrefix(m, "test_") || strings.HasSuffix(m, "_test") || slices.Contains(notCode, m)
	})
	slices.SortStableFunc(out, func(a, b string) int { return at(a) - at(b) })
	return out[:min(len(out), 200)]
}

func ranked(found []candidate, by int) []candidate {
	for i := range found {
		found[i].rank += max(by, -40)
	}
	return found
}

// inFile are the applications and factories of one module, the likeliest first.
func (s *scan) inFile(dir, module, file string) (found []candidate) {
	text := s.read(file)
	if text == "" {
		return nil
	}
	framework := ""
	if flaskText.MatchString(text) {
		framework = routes.Flask
	}
	if asgiText.MatchString(text) {
		framework = routes.FastAPI
	}
	add := func(rank int, framework, target, needs string, at int) {
		place := fmt.Sprintf("%s:%d", s.rel(file), 1+strings.Count(text[:at], "\n"))
		found = append(found, candidate{framework, target, dir, place, needs, rank})
	}
	for _, m := range objectText.FindAllStringSubmatchIndex(text, 4) {
		kind := routes.Flask
		if text[m[4]:m[5]] != "Flask" {
			kind = routes.FastAPI
		}
		add(rankObject, kind, module+":"+text[m[2]:m[3]], "", m[0])
	}
	for _, m := range madeText.FindAllStringSubmatchIndex(text, 4) {
		if kind := s.madeBy(framework, module); kind != "" {
			add(rankMade, kind, module+":"+text[m[2]:m[3]], "", m[0])
		}
	}
	for _, m := range factoryText.FindAllStringSubmatchIndex(text, 4) {
		if framework != "" {
			add(rankCalled, framework, module+":"+text[m[2]:m[3]]+"()", required(text[m[4]:m[5]]), m[0])
		}
	}
	return found
}

// madeBy is the framework of what a module makes with a factory that it imported: asgi.py is for ASGI, and others are for Flask unless they speak of another.
func (s *scan) madeBy(framework, module string) string {
	if framework != "" {
		return framework
	}
	if module == "asgi" || strings.HasSuffix(module, ".asgi") {
		return routes.FastAPI
	}
	return routes.Flask
}

// required are the parameters that have no default.
func required(parameters string) string {
	var names []string
	depth, start := 0, 0
	parameters += ","
	for i, c := range parameters {
		switch {
		case strings.ContainsRune("([{", c):
			depth++
		case strings.ContainsRune(")]}", c):
			depth--
		case c == ',' && depth <= 0:
			p := strings.TrimSpace(parameters[start:i])
			start = i + 1
			name, _, _ := strings.Cut(p, ":")
			if p != "" && !strings.Contains(p, "=") && !strings.HasPrefix(p, "*") && p != "/" {
				names = append(names, strings.TrimSpace(name))
			}
		}
	}
	return strings.Join(names, ", ")
}

// flaskApp is what FLASK_APP says, in the ways of `flask --app`: module, module:name, module:factory('x') or a file.
func (s *scan) flaskApp(dir, app string) (candidate, bool) {
	module, object, named := strings.Cut(app, ":")
	if path, ok := strings.CutSuffix(module, ".py"); ok {
		module = strings.ReplaceAll(strings.Trim(filepath.ToSlash(filepath.Clean(path)), "/"), "/", ".")
	}
	file := moduleFile(dir, module)
	if file == "" {
		return candidate{}, false
	}
	c := candidate{framework: routes.Flask, target: module + ":" + object, dir: dir, place: "FLASK_APP", rank: rankNamed}
	if named && object != "" {
		return c, true
	}
	for _, in := range s.inFile(dir, module, file) {
		if in.framework == routes.Flask {
			c.target, c.needs = in.target, in.needs
			return c, true
		}
	}
	return candidate{}, false
}
