package completing

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"gatehouse/bundler"
	"gatehouse/bundles"
	"gatehouse/bundles/tarball"
	"gatehouse/config"
	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/replay/search"
	"gatehouse/routes"
	"gatehouse/server"
)

const (
	logTail   = 256 << 10 // bytes of the decision log that are looked at, from its end
	tableSize = 4 << 20   // bytes of a route table
)

// config is the configuration that the command would read; nil where there is none that can be read.
func (q *question) config() *config.Config {
	src, err := q.source()
	if err != nil {
		return nil
	}
	src.Bundle = q.flag("bundle")
	c, _, err := src.Read()
	if err != nil {
		return nil
	}
	return c
}

// tables are the route tables of the configuration, or the one that the command's first argument names.
func (q *question) tables() (found []*routes.Table) {
	var files []string
	if q.command.Name() == "match" && len(q.args) > 0 && !isMethod(q.args[0]) {
		files = q.args[:1]
	} else if c := q.config(); c != nil {
		for _, app := range c.Applications() {
			files = append(files, app.Routes.File)
		}
	}
	for _, file := range files {
		text, err := config.ReadUpTo(file, tableSize)
		if err != nil {
			continue
		}
		if table, _, err := routes.Parse(file, text); err == nil {
			found = append(found, table)
		}
	}
	return found
}

func isMethod(word string) bool { return word != "" && word == strings.ToUpper(word) }

var (
	parameter = regexp.MustCompile(`<[^<>]*>|\{[^{}]*\}`)
	samples   = []string{"1", "x", "1.5", "00000000-0000-4000-8000-000000000001"}
)

// paths are paths of the routes that take the method, with values for their parameters.
func paths(q *question) (found []string) {
	method := q.args[len(q.args)-1]
	for _, t := range q.tables() {
		for _, r := range t.Routes() {
			if takes := r.Effective(); takes != nil && !slices.Contains(takes, method) || takes == nil && method == routes.WebSocket {
				continue
			}
			if path := samplePath(t, r, method); path != "" {
				found = append(found, path+"\t"+strings.TrimSpace(r.Template+"  "+r.Name))
			}
		}
	}
	return found
}

// pathsOrMethods is what may come behind the first argument of routes match, which is a method or a table.
func pathsOrMethods(q *question) []string {
	if isMethod(q.args[0]) {
		return paths(q)
	}
	return methods(q)
}

// samplePath is a path that the route takes, "" where none is found.
func samplePath(t *routes.Table, r *routes.Route, method string) string {
	path, fixed := t.FixedPath(r)
	for _, sample := range samples {
		if !fixed {
			path = parameter.ReplaceAllLiteralString(r.Template, sample)
		}
		if m := t.Match(method, r.Host, path); m.Outcome == routes.Matched && m.Route == r {
			return path
		}
	}
	return ""
}

// routeNames are the names by which a log's routes are asked for.
func routeNames(q *question) (found []string) {
	for _, t := range q.tables() {
		for _, r := range t.Routes() {
			found = append(found, cmp.Or(r.Name, r.Template)+"\t"+r.Template)
		}
	}
	return found
}

func apps(q *question) (found []string) {
	if c := q.config(); c != nil {
		for _, app := range c.Apps {
			found = append(found, app.Name)
		}
	}
	return found
}

func reasons(*question) (found []string) {
	for r := gate.None + 1; r <= gate.Internal; r++ {
		found = append(found, r.String())
	}
	return found
}

// rules are the paths of the policy's rules, those that decide first.
func (q *question) rules() (found []string) {
	c := q.config()
	if c == nil {
		return nil
	}
	settings := edge.BundlesConfig(c, nil, nil, nil)
	var all []*bundle.Bundle
	for _, s := range settings.Sources {
		if s.Path == "" || q.Err() != nil {
			continue
		}
		files, err := bundles.ReadFiles(q, s, settings.Limits)
		if err != nil {
			continue
		}
		if b, err := bundle.Read(s.Name, tarball.Tree(files), settings.Limits); err == nil {
			all = append(all, b)
		}
	}
	settings.Policy.Decision, settings.Policy.Asked = "", nil
	snapshot, err := policy.Compile(q, settings.Policy, all)
	if err != nil || q.Err() != nil {
		return nil
	}
	found = slices.Sorted(maps.Keys(snapshot.Defined()))
	decides := func(path string) bool {
		last := path[strings.LastIndex(path, policy.PathSeparator)+1:]
		return last == "allow" || last == gate.RouteRule
	}
	slices.SortStableFunc(found, func(a, b string) int {
		return cmp.Compare(fmt.Sprint(!decides(a)), fmt.Sprint(!decides(b)))
	})
	return found
}

// decisionPaths are rules as --decision has them: shop/allow.
func decisionPaths(q *question) (found []string) {
	for _, rule := range q.rules() {
		found = append(found, strings.ReplaceAll(rule, policy.PathSeparator, "/"))
	}
	return found
}

// references are rules as queries have them: data.shop.allow.
func references(q *question) (found []string) {
	for _, rule := range q.rules() {
		found = append(found, "data."+routes.RuleName(strings.Split(rule, policy.PathSeparator)))
	}
	return found
}

// events are the last decisions of the log, the newest first: those in the last part of the configuration's file, or that of --log.
func (q *question) events() (found []*search.Event) {
	file := q.flag("log")
	if file == "" {
		if c := q.config(); c != nil {
			file = c.DecisionLog.File
		}
	}
	for _, line := range lastLines(file) {
		e := &search.Event{}
		if e.Parse(bytes.Clone(line), 0) == nil && !e.Gap.Recorded {
			found = append(found, e)
		}
	}
	slices.Reverse(found)
	return found
}

// lastLines are the whole lines in the last part of a file.
func lastLines(file string) [][]byte {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	cut := false
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		cut = end > logTail
		_, _ = f.Seek(max(0, end-logTail), io.SeekStart)
	}
	text, err := io.ReadAll(io.LimitReader(f, logTail))
	if err != nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	if cut {
		lines = lines[1:] // the rest of one
	}
	return lines
}

// decisions are ids of the last decisions. In lower case they are found as well.
func decisions(q *question) (found []string) {
	for _, e := range q.events() {
		outcome, reason, _ := e.Outcomes()
		id := e.DecisionID.Decode()
		if lower := strings.ToLower(id); q.begins != "" && strings.HasPrefix(lower, q.begins) {
			id = lower
		}
		about := strings.Join([]string{cmp.Or(reason, outcome), e.Request.Method.Decode(), e.Request.Path.Decode(), e.Identity.Subject.Decode()}, " ")
		found = append(found, id+"\t"+strings.TrimSpace(strings.ReplaceAll(about, "\t", " ")))
	}
	return found
}

// callers are those of the last decisions, and users of the directory.
func callers(q *question) (found []string) {
	for _, e := range q.events() {
		found = append(found, e.Identity.Subject.Decode())
	}
	return append(unique(found), q.objects("user")...)
}

// roles are those of the last decisions, and of the directory.
func roles(q *question) (found []string) {
	for _, e := range q.events() {
		var list []string
		if json.Unmarshal(e.Identity.Roles, &list) == nil {
			found = append(found, list...)
		}
	}
	return unique(append(found, q.objects("role")...))
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// directory is that of the configuration, or of the folder that is the first argument, as far as it is read in time; nil where it is not.
func (q *question) directory() *directory.Snapshot {
	var path string
	o := format.Options{Manifest: q.flag("manifest"), Problems: 1}
	if strings.Contains(q.command.CommandPath(), " directory ") && len(q.args) > 0 {
		path = q.args[0]
	} else if c := q.config(); c != nil {
		path, o.Manifest = c.Directory.File, c.Directory.Manifest
	}
	if path == "" {
		return nil
	}
	s, err := format.Load(q, path, o)
	if err != nil {
		return nil
	}
	return s
}

// objects are the ids of one type in the directory.
func (q *question) objects(typ string) (found []string) {
	if s := q.directory(); s != nil {
		for o := range s.Objects(typ) {
			if found = append(found, o.ID); len(found) == most {
				break
			}
		}
	}
	return found
}

// objects are those of the directory: TYPE:ID.
func objects(q *question) (found []string) {
	if s := q.directory(); s != nil {
		typ, _, _ := strings.Cut(q.begins, ":")
		for _, t := range s.Manifest().Types() {
			if !strings.HasPrefix(t, typ) {
				continue
			}
			for o := range s.Objects(t) {
				if found = append(found, t+":"+o.ID); len(found) == most {
					return found
				}
			}
		}
	}
	return found
}

// subjects are users by their id alone, and other objects.
func subjects(q *question) []string { return append(q.objects("user"), objects(q)...) }

// relations are the relations and permissions of the directory's types.
func relations(q *question) (found []string) {
	if s := q.directory(); s != nil {
		for _, t := range s.Manifest().Types() {
			found = append(found, s.Manifest().Relations(t)...)
			found = append(found, s.Manifest().Permissions(t)...)
		}
	}
	return unique(found)
}

// keyIDs are the ids of keys that bundles may be signed with.
func keyIDs(q *question) (found []string) {
	if c := q.config(); c != nil {
		for _, b := range c.Policy.Bundles {
			if b.Signing != nil {
				for _, k := range b.Signing.Keys {
					found = append(found, k.ID)
				}
			}
		}
	}
	return unique(found)
}

func issuers(q *question) (found []string) {
	if c := q.config(); c != nil {
		for _, j := range c.Identity.JWT {
			found = append(found, j.Issuer)
		}
	}
	return found
}

func audiences(q *question) (found []string) {
	if c := q.config(); c != nil {
		for _, j := range c.Identity.JWT {
			found = append(found, j.Audiences...)
		}
	}
	return unique(found)
}

// keys are the keys of gatehouse.yaml, with the beginning of what docs/config.md says of each.
func keys(*question) (found []string) {
	for _, k := range config.AllKeys() {
		about, _, _ := strings.Cut(k.Doc, ". ")
		found = append(found, k.Path+"\t"+about)
	}
	return found
}

// images are the names in the local store.
func images(q *question) (found []string) {
	i := bundler.Images{Store: q.flag("store")}
	store, err := i.Open()
	if err != nil {
		return nil
	}
	list, err := store.List()
	if err != nil {
		return nil
	}
	for _, one := range list {
		found = append(found, one.Reference)
	}
	return unique(found)
}

// revisions are the policies that the running process can roll back to.
func revisions(q *question) (found []string) {
	address := q.flag("control")
	if c := q.config(); address == "" && c != nil {
		address = c.Listen.Control
	}
	path, ok := config.CutUnix(address)
	if !ok {
		return nil
	}
	a, err := server.Control{Socket: path}.History(q)
	if err != nil {
		return nil
	}
	for _, h := range a.History {
		if !h.Active {
			found = append(found, h.Revision)
		}
	}
	return found
}
