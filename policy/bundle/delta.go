package bundle

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/rego"
)

// DeltaFile at the top of a bundle makes it a delta: OPA's patch.json.
const DeltaFile = "patch.json"

// maxOperations bounds the operations of one delta.
const maxOperations = 100_000

// delta is patch.json as OPA defines it.
type delta struct {
	Data []struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	} `json:"data"`
}

// Patch returns the bundle with a delta applied: the same modules, its own data, the delta's revision. The receiver does not change.
// manifest is the delta's .manifest, nil if there is none, and patch its patch.json: operations upsert, remove and replace on paths below
// the roots. As in OPA, upsert creates missing parents, remove and replace need an existing value, and the roots must be the bundle's. The
// error is Problems and names the operation.
func (b *Bundle) Patch(manifest, patch []byte) (*Bundle, error) {
	r := &reader{name: b.name, bundle: &Bundle{name: b.name, modules: b.modules, notices: b.notices}, digest: sha256.New()}
	if manifest != nil {
		if line, err := rego.DecodeJSON(manifest, &r.manifest); err != nil {
			r.problem(manifestFile, line, err.Error())
			return nil, r.problems.err()
		}
	}
	if r.checkManifest(); len(r.problems) == 0 && !sameRoots(r.bundle.roots, b.roots) {
		r.problem(manifestFile, 0, fmt.Sprintf("the delta's roots %q are not the bundle's %q", r.bundle.roots, b.roots))
	}
	var d delta
	if line, err := rego.DecodeJSON(patch, &d); err != nil {
		r.problem(DeltaFile, line, err.Error())
	}
	if len(d.Data) > maxOperations {
		r.problem(DeltaFile, 0, fmt.Sprintf("more than %d operations", maxOperations))
	}
	if len(r.problems) > 0 {
		return nil, r.problems.err()
	}
	data := &edit{was: b.data}
	for i, op := range d.Data {
		if err := data.apply(op.Op, op.Path, op.Value, b.roots); err != nil {
			r.problem(DeltaFile, 0, fmt.Sprintf("data[%d]: %s %q: %v", i, rego.OneLine(op.Op), rego.OneLine(op.Path), err))
			return nil, r.problems.err()
		}
	}
	r.bundle.data = data.seal().(ast.Object)
	var length [8]byte
	for _, part := range [][]byte{[]byte("delta of " + b.digest), manifest, patch} {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		r.digest.Write(length[:])
		r.digest.Write(part)
	}
	r.bundle.digest = hex.EncodeToString(r.digest.Sum(nil))
	return r.bundle, nil
}

func sameRoots(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// patchPath splits an operation's path as OPA does: URL escapes first, then JSON pointer escapes (RFC 6901 section 4).
func patchPath(text string) ([]string, error) {
	path := strings.Split(strings.Trim(text, "/"), "/")
	if path[0] == "" {
		return nil, fmt.Errorf("the path names nothing below data")
	}
	if len(path) > rego.MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", rego.MaxDepth)
	}
	for i, segment := range path {
		plain, err := url.PathUnescape(segment)
		if err != nil {
			return nil, err
		}
		path[i] = strings.ReplaceAll(strings.ReplaceAll(plain, "~1", "/"), "~0", "~")
	}
	return path, nil
}

// owned reports whether a root is a prefix of the path, segment by segment.
func owned(path, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		if root == "" {
			return true
		}
		want := strings.Split(root, "/")
		return len(path) >= len(want) && slices.Equal(path[:len(want)], want)
	})
}

// edit is a value being changed. Only touched parts of it are opened, so that a small delta of large data copies the objects it touches
// once.
type edit struct {
	was   rego.Value       // nil for an object created by upsert
	set   map[string]*edit // opened or set members; nil: removed
	list  []*edit          // elements, once the array is opened
	array bool             // list is valid
}

func (e *edit) apply(op, where string, value any, roots []string) error {
	path, err := patchPath(where)
	if err != nil {
		return err
	}
	if !owned(path, roots) {
		return fmt.Errorf("outside the manifest's roots %q", roots)
	}
	var fresh *edit
	switch op {
	case "upsert", "replace":
		v, err := rego.FromJSONAt(value, len(path))
		if err != nil {
			return err
		}
		fresh = &edit{was: v}
	case "remove":
	default:
		return fmt.Errorf("the operations are upsert, remove and replace")
	}
	parent := e
	for i, segment := range path[:len(path)-1] {
		if parent, err = parent.step(segment, op == "upsert"); err != nil {
			return fmt.Errorf("%q: %w", strings.Join(path[:i+1], "/"), err)
		}
	}
	return parent.put(op, path[len(path)-1], fresh)
}

// step opens one member or element. An upsert creates a missing member as an object.
func (e *edit) step(segment string, make bool) (*edit, error) {
	if e.open(); e.array {
		i, err := e.index(segment, len(e.list))
		if err != nil {
			return nil, err
		}
		return e.list[i], nil
	}
	if !e.isObject() {
		return nil, fmt.Errorf("neither an object nor an array")
	}
	child := e.member(segment)
	switch {
	case child != nil:
	case make:
		child = &edit{}
	default:
		return nil, fmt.Errorf("not there")
	}
	e.keep(segment, child)
	return child, nil
}

// put applies the operation at the path's last segment.
func (e *edit) put(op, segment string, fresh *edit) error {
	if e.open(); e.array {
		return e.putElement(op, segment, fresh)
	}
	if !e.isObject() {
		return fmt.Errorf("its parent is neither an object nor an array")
	}
	if op != "upsert" && e.member(segment) == nil {
		return fmt.Errorf("not there")
	}
	e.keep(segment, fresh)
	return nil
}

// putElement follows JSON Patch (RFC 6902 section 4): add inserts, and - is past the last element.
func (e *edit) putElement(op, segment string, fresh *edit) error {
	if op == "upsert" && segment == "-" {
		e.list = append(e.list, fresh)
		return nil
	}
	length := len(e.list)
	if op == "upsert" {
		length++
	}
	i, err := e.index(segment, length)
	if err != nil {
		return err
	}
	switch op {
	case "upsert":
		e.list = slices.Insert(e.list, i, fresh)
	case "replace":
		e.list[i] = fresh
	default:
		e.list = slices.Delete(e.list, i, i+1)
	}
	return nil
}

func (e *edit) index(segment string, length int) (int, error) {
	i, err := strconv.Atoi(segment)
	if err != nil || i < 0 || i >= length || strconv.Itoa(i) != segment {
		return 0, fmt.Errorf("%q is not an index of an array of %d", segment, len(e.list))
	}
	return i, nil
}

func (e *edit) isObject() bool {
	_, ok := e.was.(ast.Object)
	return ok || e.was == nil
}

// member returns a member of an object, nil if it is absent.
func (e *edit) member(name string) *edit {
	if child, touched := e.set[name]; touched {
		return child
	}
	object, ok := e.was.(ast.Object)
	if !ok {
		return nil
	}
	if term := object.Get(ast.StringTerm(name)); term != nil {
		return &edit{was: term.Value}
	}
	return nil
}

func (e *edit) keep(name string, child *edit) {
	if e.set == nil {
		e.set = map[string]*edit{}
	}
	e.set[name] = child
}

// open turns an unchanged array into a list.
func (e *edit) open() {
	array, ok := e.was.(*ast.Array)
	if !ok || e.array {
		return
	}
	e.array = true
	array.Foreach(func(t *ast.Term) { e.list = append(e.list, &edit{was: t.Value}) })
}

// seal builds the value. Untouched parts are shared with the value before.
func (e *edit) seal() rego.Value {
	if e.array {
		list := make([]rego.Value, len(e.list))
		for i, child := range e.list {
			list[i] = child.seal()
		}
		return rego.Array(list...)
	}
	if e.was != nil && e.set == nil {
		return e.was
	}
	var pairs [][2]*ast.Term
	if object, ok := e.was.(ast.Object); ok {
		pairs = make([][2]*ast.Term, 0, object.Len()+len(e.set))
		object.Foreach(func(k, v *ast.Term) {
			name, isString := k.Value.(ast.String)
			if _, touched := e.set[string(name)]; !isString || !touched {
				pairs = append(pairs, [2]*ast.Term{k, v})
			}
		})
	}
	for name, child := range e.set {
		if child != nil {
			pairs = append(pairs, [2]*ast.Term{ast.StringTerm(name), ast.NewTerm(child.seal())})
		}
	}
	return ast.NewObject(pairs...)
}
