package project

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/joho/godotenv"
)

// Env are variables of files that the application's own tools would read.
type Env struct {
	Files  []string          // as people know them
	Values map[string]string // that are not set in our own environment
	from   map[string]string // the file of each
}

const (
	dotEnv   = ".env"
	flaskEnv = ".flaskenv" // Flask's own
	maxEnv   = 256 << 10   // bytes of one file
)

// readEnv reads .env and .flaskenv as flask run does: what is set already wins, then .env.
func readEnv(root string, flask bool) (Env, error) {
	e := Env{Values: map[string]string{}, from: map[string]string{}}
	names := []string{dotEnv}
	if flask {
		names = append(names, flaskEnv)
	}
	for _, name := range names {
		path := filepath.Join(root, name)
		if !isFile(path) { // a folder .env is a virtual environment
			continue
		}
		values, err := parseEnv(path)
		if err != nil {
			return e, fmt.Errorf("%s: %w: correct it, or move it away", path, err)
		}
		for key, value := range values {
			_, set := os.LookupEnv(key)
			if _, before := e.Values[key]; !set && !before && key != "" {
				e.Values[key], e.from[key] = value, name
			}
		}
		e.Files = append(e.Files, name)
	}
	return e, nil
}

// parseEnv keeps values out of what it says is wrong.
func parseEnv(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEnv+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxEnv {
		return nil, fmt.Errorf("it has more than %d bytes", maxEnv)
	}
	values, err := godotenv.Unmarshal(string(text))
	if err == nil {
		return values, nil
	}
	for i := range strings.Count(string(text), "\n") + 1 { // the parser quotes the rest of the file, with its secrets
		lines := strings.SplitAfterN(string(text), "\n", i+2)
		if _, err := godotenv.Unmarshal(strings.Join(lines[:min(i+1, len(lines))], "")); err != nil {
			return nil, fmt.Errorf("line %d is not KEY=value", i+1)
		}
		if i > 1000 {
			break
		}
	}
	return nil, fmt.Errorf("it does not consist of lines KEY=value")
}

// drop takes back what came from one file.
func (e *Env) drop(name string) {
	if !slices.Contains(e.Files, name) {
		return
	}
	e.Files = slices.DeleteFunc(e.Files, func(f string) bool { return f == name })
	for key, from := range e.from {
		if from == name {
			delete(e.Values, key)
		}
	}
}

// get is a variable of our environment, or of the files.
func (e *Env) get(key string) string {
	if value, ok := os.LookupEnv(key); ok {
		return value
	}
	return e.Values[key]
}

// List is the variables as KEY=value, sorted.
func (e *Env) List() (list []string) {
	for _, key := range slices.Sorted(maps.Keys(e.Values)) {
		list = append(list, key+"="+e.Values[key])
	}
	return list
}
