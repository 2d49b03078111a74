package scaffold

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/config"
	"gatehouse/project"
	"gatehouse/routes"
	"gatehouse/watch"
)

// localFile has how the application is run on this machine, for gatehouse up. It is not for git: its folder ignores itself.
const localFile = ".gatehouse/app.yaml"

// ignored is what git must not have, besides .gatehouse.
func ignored() []string { return []string{".gatehouse/", "decisions.log*"} }

// local is the content of localFile.
type local struct {
	Framework string `yaml:"framework"`
	Target    string `yaml:"target"`
	Dir       string `yaml:"dir"`
	Python    string `yaml:"python"`
}

// WriteLocal keeps how the application is run on this machine, and adds to .gitignore what it lacks. It changes nothing else of that file.
func WriteLocal(dir string, app *project.Project) error {
	if app != nil {
		text, err := yaml.Marshal(local{app.Framework, app.Target, app.Dir, app.Python})
		if err == nil {
			err = writeBelow(filepath.Join(dir, filepath.FromSlash(localFile)), append([]byte("# How gatehouse up runs the application on this machine. gatehouse init wrote it.\n"), text...))
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", localFile, err)
		}
	}
	file := filepath.Join(dir, ".gitignore")
	text, err := watch.ReadFile(file, 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("adding to %s: %w", file, err)
	}
	var missing []string
	for _, line := range ignored() {
		if !hasLine(text, line) {
			missing = append(missing, line)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	added := "# Gatehouse's own\n" + strings.Join(missing, "\n") + "\n"
	if len(text) > 0 {
		if text = bytes.TrimRight(text, "\n"); len(text) > 0 {
			added = "\n\n" + added
		}
	}
	if err := ReplaceFile(file, append(text, added...)); err != nil {
		return fmt.Errorf("adding to %s: %w", file, err)
	}
	return nil
}

func hasLine(text []byte, line string) bool {
	for has := range bytes.Lines(text) {
		if strings.Trim(string(bytes.TrimSpace(has)), "/") == strings.Trim(line, "/") {
			return true
		}
	}
	return false
}

// LocalProject is the application of a configuration: as gatehouse init found it on this machine, else as its route table says where it is from, else as
// it is found. python and dir replace what was found where they are not empty.
func LocalProject(src config.Source, python, dir string) (*project.Project, error) {
	cfg, _, err := src.Read()
	if err != nil {
		return nil, err
	}
	w := readLocal(filepath.Dir(src.File), cfg.Routes.File)
	w.Python, w.Dir = cmp.Or(python, w.Python), cmp.Or(dir, w.Dir)
	app, err := project.Find(w)
	if errors.Is(err, project.ErrNone) {
		return nil, errors.New("no Flask, FastAPI or Django application was found: run its server with gatehouse up -- COMMAND --port {port}")
	}
	return app, err
}

// readLocal is what is known. What is not is empty.
func readLocal(dir, routesFile string) project.Wanted {
	var l local
	if text, err := watch.ReadFile(filepath.Join(dir, filepath.FromSlash(localFile)), 1<<16); err == nil {
		_ = yaml.Unmarshal(text, &l) // one that is broken says nothing
	}
	if _, err := os.Stat(l.Python); err != nil && strings.ContainsRune(l.Python, filepath.Separator) {
		l.Python = "" // the environment was moved: look for it
	}
	if info, err := os.Stat(l.Dir); err != nil || !info.IsDir() {
		l = local{}
	}
	if l.Python == "python3" {
		l.Python = "" // there may be an environment by now
	}
	if l.Target == "" && routesFile != "" {
		var table struct {
			Source string `yaml:"source"`
		}
		if text, err := watch.ReadFile(routesFile, 16<<20); err == nil {
			_ = yaml.Unmarshal(text, &table) // what is wrong with it is Gatehouse's to say
		}
		l.Framework, l.Target, _ = strings.Cut(table.Source, " ")
		if l.Framework != routes.Flask && l.Framework != routes.FastAPI && l.Framework != routes.Django {
			l.Framework, l.Target = "", "" // a description, or a log
		}
	}
	return project.Wanted{Root: dir, Framework: l.Framework, Target: l.Target, Dir: l.Dir, Python: l.Python}
}
