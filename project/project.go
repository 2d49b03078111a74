// Package project finds the Python application in a folder, and how its code is run: the framework, the object or the settings, the folder of its
// modules, the interpreter of its virtual environment, and the variables of its .env. It only looks at files; what the application says about itself
// is package routes/importer's. Whatever it takes for granted it says, with the flag that changes it. It imports routes for the frameworks' names.
package project

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gatehouse/nearest"
	"gatehouse/routes"
	"gatehouse/terminal"
)

// Project is an application, and how its code is run.
type Project struct {
	Framework string // routes.Flask, routes.FastAPI or routes.Django; "" where the application is none of Python's
	Target    string // shop:app, shop:create_app() or mysite.settings
	Dir       string // where its modules are, absolute
	Python    string // its interpreter: a path, or python3, which PATH finds
	HasVenv   bool   // Python is that of a virtual environment, or was named
	Manage    string // Django's manage.py, absolute; "" where there is none
	Env       Env    // of .env and, for Flask, .flaskenv
	// Assumed is what was found and not said, for people.
	Assumed []Assumption

	root string // the project's folder, absolute
}

// Assumption is something that was taken for granted, and how to change it.
type Assumption struct{ Text, Change string }

// Wanted is what is said already. All of it may be empty.
type Wanted struct {
	Root      string // the project's folder; "" is the current one
	Framework string
	Target    string
	Dir       string // relative to the current folder
	Python    string
}

// ErrNone is the error of a folder without an application that is known here.
var ErrNone = errors.New("no Flask, FastAPI or Django application was found here")

// A MeantError says that a target is not one, and which one was probably meant.
type MeantError struct {
	Framework, Target, Meant string
	Why                      string
}

func (e *MeantError) Error() string {
	return fmt.Sprintf("--%s %s: %s: did you mean %s?", e.Framework, e.Target, e.Why, e.Meant)
}

// Find finds what is not said.
func Find(w Wanted) (*Project, error) {
	root, err := filepath.Abs(w.Root)
	if err != nil {
		return nil, fmt.Errorf("finding the project: %w", err)
	}
	p := &Project{Framework: w.Framework, Target: w.Target, root: root}
	if p.Env, err = readEnv(root, w.Framework == "" || w.Framework == routes.Flask); err != nil {
		return nil, err
	}
	if w.Dir != "" {
		if p.Dir, err = filepath.Abs(w.Dir); err != nil {
			return nil, fmt.Errorf("finding the project: %w", err)
		}
	}
	s := &scan{root: root}
	if p.Target == "" {
		err = p.search(s)
	} else {
		err = p.check(s)
	}
	if err != nil {
		return nil, err
	}
	if p.Framework == routes.Django {
		p.Manage = firstFile(p.Dir, "manage.py")
	}
	if p.Framework != routes.Flask {
		p.Env.drop(flaskEnv)
	}
	p.findPython(w.Python)
	if n := len(p.Env.Values); n > 0 {
		p.assume(fmt.Sprintf("environment  %s from %s, for the application alone", terminal.Count(n, "variable"), strings.Join(p.Env.Files, " and ")), "set a variable yourself: what is set wins")
	}
	return p, nil
}

func (p *Project) assume(text, change string) {
	p.Assumed = append(p.Assumed, Assumption{text, change})
}

// search finds the application.
func (p *Project) search(s *scan) error {
	dirs := s.folders()
	if p.Dir != "" {
		dirs = []string{p.Dir}
	}
	var found []candidate
	for _, dir := range dirs {
		found = append(found, s.candidates(dir, p.Env)...)
	}
	if p.Framework != "" {
		found = slices.DeleteFunc(found, func(c candidate) bool { return c.framework != p.Framework })
	}
	if len(found) == 0 {
		return ErrNone
	}
	best := found[0]
	for _, c := range found[1:] {
		if c.rank > best.rank {
			best = c
		}
	}
	if best.needs != "" {
		return fmt.Errorf("%s is a factory that needs arguments (%s): name it with them, such as --%s \"%s('...')\"", best.place, best.needs, best.framework, strings.TrimSuffix(best.target, "()"))
	}
	p.Framework, p.Target, p.Dir = best.framework, best.target, best.dir
	name := map[string]string{routes.Flask: "Flask", routes.FastAPI: "FastAPI", routes.Django: "Django"}[p.Framework]
	change := fmt.Sprintf("--%s %s", p.Framework, map[string]string{routes.Flask: "MODULE:APP", routes.FastAPI: "MODULE:APP", routes.Django: "SETTINGS"}[p.Framework])
	if others := s.others(found, best); others != "" {
		change += "; there is also " + others
	}
	p.assume(fmt.Sprintf("application  %s %s, found in %s", name, p.Target, best.place), change)
	p.sayDir(s)
	return nil
}

func (p *Project) sayDir(s *scan) {
	if p.Dir != s.root {
		p.assume("modules      in "+s.rel(p.Dir), "--dir DIR")
	}
}

// check finds the folder of a target that is named, and what was meant where it is none.
func (p *Project) check(s *scan) error {
	module, object, named := strings.Cut(p.Target, ":")
	dirs := s.folders()
	if p.Dir != "" {
		dirs = []string{p.Dir}
	}
	at := slices.IndexFunc(dirs, func(dir string) bool { return moduleFile(dir, module) != "" })
	if at < 0 { // it may be installed in the environment: the import says
		if p.Dir == "" {
			p.Dir = s.root
		}
		return p.similar(s, module)
	}
	chosen := p.Dir == ""
	p.Dir = dirs[at]
	if chosen {
		p.sayDir(s)
	}
	file := moduleFile(p.Dir, module)
	if p.Framework == routes.Django {
		return p.checkSettings(s, module, file)
	}
	if named && object != "" {
		return nil
	}
	var objects []candidate
	for _, c := range s.inFile(p.Dir, module, file) {
		if c.framework == p.Framework {
			objects = append(objects, c)
		}
	}
	if len(objects) > 0 && objects[0].needs == "" && objects[0].target != module+":app" {
		p.Target = objects[0].target
		p.assume(fmt.Sprintf("application  %s, found in %s", p.Target, objects[0].place), fmt.Sprintf("--%s MODULE:APP", p.Framework))
	}
	return nil
}

var settingsText = regexp.MustCompile(`(?m)^(ROOT_URLCONF|INSTALLED_APPS|SECRET_KEY)\b|^from \S*settings\S* import|^from \S+ import \*`)

// checkSettings refuses a package that has the settings in it.
func (p *Project) checkSettings(s *scan, module, file string) error {
	if filepath.Base(file) != "__init__.py" && !isFolder(file) || settingsText.MatchString(s.read(filepath.Join(moduleFolder(p.Dir, module), "__init__.py"))) {
		return nil
	}
	folder := moduleFolder(p.Dir, module)
	for _, meant := range []string{"settings", "settings/dev", "settings/local", "settings/base", "conf/settings", "config/settings", "dev", "development", "local", "base"} {
		inner := strings.ReplaceAll(meant, "/", ".")
		if f := moduleFile(folder, inner); f != "" && settingsText.MatchString(s.read(f)) {
			return &MeantError{p.Framework, p.Target, module + "." + inner, "that package is no settings module"}
		}
	}
	return nil
}

// similar says which module was probably meant.
func (p *Project) similar(s *scan, module string) error {
	first, rest, _ := strings.Cut(module, ".")
	var names []string
	for _, dir := range s.folders() {
		names = append(names, modulesIn(dir)...)
	}
	if slices.Contains(names, first) {
		if rest == "settings" || p.Framework != routes.Django {
			return nil
		}
	}
	if near := nearest.Word(first, names, 2); near != "" && near != first {
		meant := near + strings.TrimPrefix(p.Target, first)
		return &MeantError{p.Framework, p.Target, meant, fmt.Sprintf("there is no module %q in %s", first, s.rel(p.Dir))}
	}
	return nil
}

// moduleFolder is the folder that a package would have.
func moduleFolder(dir, module string) string {
	return filepath.Join(dir, filepath.FromSlash(strings.ReplaceAll(module, ".", "/")))
}

// moduleFile is the file of a module, or the folder of a package without an __init__.py; "" where there is neither.
func moduleFile(dir, module string) string {
	base := moduleFolder(dir, module)
	if strings.Contains(module, "/") || module == "" {
		return ""
	}
	for _, file := range []string{filepath.Join(base, "__init__.py"), base + ".py"} {
		if isFile(file) {
			return file
		}
	}
	if isFolder(base) && len(modulesIn(base)) > 0 {
		return base
	}
	return ""
}

func firstFile(dir string, names ...string) string {
	for _, name := range names {
		if file := filepath.Join(dir, name); isFile(file) {
			return file
		}
	}
	return ""
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
