// Package bundle reads one bundle of Rego and data: it checks and parses the files, applies deltas, compares bundles, and reads their tests.
// Bundles are values; package policy compiles them. It is a part of the policy and imports policy/rego and the foundations.
package bundle

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"

	"gatehouse/policy/rego"
	"gatehouse/policy/regoerror"
)

// Bundle is one bundle, read and parsed: modules, data and manifest. It is immutable.
type Bundle struct {
	name     string
	revision string // from the manifest; may be empty
	digest   string // SHA-256 of the files read, in hexadecimal
	roots    []string
	modules  map[string]*ast.Module // by path within the bundle
	data     ast.Object
	notices  []string
}

// Name returns the name given to Read.
func (b *Bundle) Name() string { return b.name }

// Revision returns the manifest's revision, or the first twelve digits of the digest.
func (b *Bundle) Revision() string {
	if b.revision != "" {
		return b.revision
	}
	return b.digest[:12]
}

// Digest returns the SHA-256, in hexadecimal, of the paths and contents of all files read. Bundles with the same digest decide alike.
func (b *Bundle) Digest() string { return b.digest }

// Info describes a bundle.
type Info struct {
	Name     string `json:"name"`
	Revision string `json:"revision"` // from the manifest, or the first twelve digits of the digest
	Digest   string `json:"digest"`   // SHA-256 in hexadecimal
	Rules    int    `json:"rules"`
	Modules  int    `json:"modules"`
}

// Info returns the bundle's description.
func (b *Bundle) Info() Info {
	info := Info{Name: b.name, Revision: b.Revision(), Digest: b.digest, Modules: len(b.modules)}
	for _, module := range b.modules {
		info.Rules += len(module.Rules)
	}
	return info
}

// Roots returns the paths below data that the bundle owns; an empty root owns everything. The caller must not change them.
func (b *Bundle) Roots() []string { return b.roots }

// Modules returns the bundle's modules by path within it. The caller must not change them: Compile copies what it changes.
func (b *Bundle) Modules() map[string]*ast.Module { return b.modules }

// Data returns the bundle's data. The caller must not change it.
func (b *Bundle) Data() ast.Object { return b.data }

// Notices returns warnings for the bundle's author, at most eleven lines.
func (b *Bundle) Notices() []string { return b.notices }

// Limits bounds a bundle's contents. A zero means the default.
type Limits struct {
	Files int   // number of files; default 10,000
	File  int64 // bytes of one file; default 100 MiB
	Total int64 // bytes of all files; default 100 MiB
	Depth int   // folders above a file; default 32
}

// OrDefault returns the limits with every zero replaced.
func (l Limits) OrDefault() Limits {
	const mebibyte = 1 << 20
	if l.Files == 0 {
		l.Files = 10_000
	}
	if l.File == 0 {
		l.File = 100 * mebibyte
	}
	if l.Total == 0 {
		l.Total = 100 * mebibyte
	}
	if l.Depth == 0 {
		l.Depth = 32
	}
	return l
}

// Read parses one bundle in OPA's layout: *.rego at any depth, data.json, data.yaml and data.yml placed by their folder, and .manifest at
// the top (roots, revision, rego_version, file_rego_versions). Test modules (*_test.rego) are left out; other JSON and YAML files are left
// out with a notice.
//
// A module is parsed as Rego v1, or as v0 if it only parses as that; a version in the manifest is binding. Read returns all problems at
// once, as Problems.
func Read(name string, files fs.FS, limits Limits) (b *Bundle, err error) {
	r := &reader{name: name, files: files, limits: limits.OrDefault(), digest: sha256.New()}
	r.bundle = &Bundle{name: name, modules: map[string]*ast.Module{}}
	// OPA's parser panics on some malformed input. A bundle must not be able to kill the process.
	defer func() {
		if p := recover(); p != nil {
			r.problem(r.at, 0, fmt.Sprintf("the parser failed: %v", p))
			b, err = nil, r.problems.err()
		}
	}()
	r.read()
	if err := r.problems.err(); err != nil {
		return nil, err
	}
	return r.bundle, nil
}

type reader struct {
	name     string
	files    fs.FS
	limits   Limits
	bundle   *Bundle
	manifest opa.Manifest
	paths    []string // files to read, in lexical order
	data     dataTree
	digest   hash.Hash
	at       string // the current file, for a panic's message
	problems Problems
}

func (r *reader) problem(file string, line int, text string) {
	r.problems.Add(Problem{Stage: "reading", Bundle: r.name, File: file, Line: line, Text: text})
}

func (r *reader) notice(format string, args ...any) {
	r.bundle.notices = AddNotice(r.bundle.notices, fmt.Sprintf("bundle %q: ", r.name)+fmt.Sprintf(format, args...))
}

// read starts with the manifest, which says how to parse the rest.
func (r *reader) read() {
	if r.list(); len(r.problems) > 0 {
		return
	}
	if slices.Contains(r.paths, manifestFile) {
		r.readManifest()
	}
	if r.checkManifest(); len(r.problems) > 0 {
		return
	}
	parser := newModuleParser(&r.manifest)
	for _, file := range r.paths {
		if r.problems.full() {
			return
		}
		r.at = file
		switch kindOf(file) {
		case kindModule:
			r.readModule(parser, file)
		case kindData:
			r.readData(file)
		}
	}
	r.finish()
}

// finish checks what needs all files.
func (r *reader) finish() {
	if len(r.problems) > 0 {
		return
	}
	r.checkRoots()
	r.checkEntryPoints()
	r.bundle.data = collapse(r.data.root).(ast.Object)
	r.bundle.digest = hex.EncodeToString(r.digest.Sum(nil))
}

// Names in OPA's layout, at the top of the bundle only.
const (
	manifestFile  = ".manifest"
	manifestProto = ".manifest.pb" // the manifest as protobuf
	planFile      = "plan.json"    // IR plan, beside the Rego it was compiled from
	wasmSuffix    = ".wasm"        // WebAssembly, in place of the entry points' rules
)

type fileKind int

const (
	kindIgnored fileKind = iota
	kindModule
	kindData
	kindManifest
	kindMisnamed // looks like data but is not read
)

// Wanted reports whether Read opens the file at this path within a bundle. Of other files only the name matters.
func Wanted(file string) bool {
	switch kindOf(file) {
	case kindModule, kindData, kindManifest:
		return true
	}
	return false
}

func kindOf(file string) fileKind {
	base := path.Base(file)
	switch {
	case file == manifestFile:
		return kindManifest
	case strings.HasSuffix(base, "_test.rego"):
		return kindIgnored
	case strings.HasSuffix(base, ".rego"):
		return kindModule
	case base == "data.json", base == "data.yaml", base == "data.yml":
		return kindData
	case base == manifestFile, path.Ext(base) == wasmSuffix:
		return kindMisnamed
	case strings.HasPrefix(base, "."):
		return kindIgnored
	case slices.Contains([]string{".json", ".yaml", ".yml"}, path.Ext(base)):
		return kindMisnamed
	}
	return kindIgnored
}

// list finds the files to read and checks the limits before any is opened. It stops at the first violation.
func (r *reader) list() {
	var total int64
	refuse := func(file, format string, args ...any) error {
		r.problem(file, 0, fmt.Sprintf(format, args...))
		return fs.SkipAll
	}
	_ = fs.WalkDir(r.files, ".", func(file string, entry fs.DirEntry, err error) error { // refuse has recorded the problem
		if err != nil {
			return refuse(file, "%v", err)
		}
		if depth := strings.Count(file, "/"); depth > r.limits.Depth {
			return refuse(file, "more than %d folders deep", r.limits.Depth)
		}
		if entry.IsDir() {
			return nil
		}
		if file == manifestProto {
			return refuse(file, "a manifest in this form is not read: build the bundle with one in JSON")
		}
		switch kindOf(file) {
		case kindIgnored:
			return nil
		case kindMisnamed:
			r.noticeMisnamed(file)
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return refuse(file, "%v", err)
		}
		total += info.Size()
		r.paths = append(r.paths, file)
		switch {
		case info.Size() > r.limits.File:
			return refuse(file, "larger than %d bytes", r.limits.File)
		case total > r.limits.Total:
			return refuse(file, "all files together are larger than %d bytes", r.limits.Total)
		case len(r.paths) > r.limits.Files:
			return refuse(file, "more than %d files", r.limits.Files)
		}
		return nil
	})
}

func (r *reader) noticeMisnamed(file string) {
	switch {
	case path.Base(file) == manifestFile:
		r.notice("%s is not read: a manifest is at the top of the bundle", file)
		return
	case file == planFile, path.Ext(file) == wasmSuffix:
		r.notice("%s is not used: the bundle's Rego decides", file)
		return
	}
	r.notice("%s is not read: data files are named data.json or data.yaml", file)
}

// load reads a file and adds it to the digest, with lengths in front so that no two trees have the same input.
func (r *reader) load(file string) ([]byte, bool) {
	content, err := fs.ReadFile(r.files, file)
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		r.problem(file, 0, err.Error())
		return nil, false
	}
	var length [8]byte
	for _, part := range [][]byte{[]byte(file), content} {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		r.digest.Write(length[:])
		for piece := range slices.Chunk(part, 256<<10) {
			r.digest.Write(piece)
			runtime.Gosched() // yields to requests between files
		}
	}
	return content, true
}

func (r *reader) readManifest() {
	content, ok := r.load(manifestFile)
	if !ok {
		return
	}
	if line, err := rego.DecodeJSON(content, &r.manifest); err != nil {
		r.problem(manifestFile, line, err.Error())
	}
}

// checkManifest sets defaults and refuses what is ambiguous or does not fit on a log line.
func (r *reader) checkManifest() {
	r.manifest.Init()
	roots := *r.manifest.Roots
	for i := range roots {
		roots[i] = strings.Trim(roots[i], "/")
		for _, other := range roots[:i] {
			if opa.RootPathsOverlap(roots[i], other) {
				r.problem(manifestFile, 0, fmt.Sprintf("roots %q and %q overlap", other, roots[i]))
			}
		}
	}
	if v := r.manifest.RegoVersion; v != nil {
		if _, err := ast.RegoVersionFromIntStrict(*v); err != nil {
			r.problem(manifestFile, 0, fmt.Sprintf("rego_version %d is unknown: it is 0 or 1", *v))
		}
	}
	revision := r.manifest.Revision
	if len(revision) > 256 || !utf8.ValidString(revision) || strings.ContainsFunc(revision, unicode.IsControl) {
		r.problem(manifestFile, 0, "revision: at most 256 bytes of printable text")
	}
	r.bundle.roots = roots
	r.bundle.revision = revision
}

func (r *reader) readModule(parser *moduleParser, file string) {
	content, ok := r.load(file)
	if !ok {
		return
	}
	module, errs := parser.parse(r.name, file, content)
	for i, e := range errs {
		// Of several errors on one line the last is the most specific.
		if i+1 < len(errs) && row(errs[i+1]) == row(e) {
			continue
		}
		found := regoerror.Parsing(e, string(content))
		r.problems.Add(Problem{Stage: "reading", Bundle: r.name, File: file, Line: found.Line, Column: found.Column, Source: found.Source, Text: found.Text})
	}
	if module != nil {
		r.bundle.modules[file] = module
	}
}

// row returns the line of an OPA error, 0 if it has none.
func row(e *ast.Error) int {
	if e.Location == nil {
		return 0
	}
	return e.Location.Row
}

func (r *reader) readData(file string) {
	content, ok := r.load(file)
	if !ok {
		return
	}
	value, line, err := decodeData(file, content)
	if err == nil {
		err = r.data.insert(file, value)
	}
	if err != nil {
		r.problem(file, line, err.Error())
	}
}

// checkRoots checks modules and data against the manifest's roots: a bundle must not define what it does not own.
func (r *reader) checkRoots() {
	for _, file := range slices.Sorted(keys(r.bundle.modules)) {
		pkg := r.bundle.modules[file].Package
		if !opa.RootPathsContain(r.bundle.roots, strings.Join(rego.Path(pkg.Path), "/")) {
			r.problem(file, pkg.Location.Row, fmt.Sprintf("%v is outside the manifest's roots %q", pkg, r.bundle.roots))
		}
	}
	if slices.Contains(r.bundle.roots, "") {
		return
	}
	if outside := outsideRoots(r.data.root, nil, r.bundle.roots); outside != "" {
		file := r.data.definer(strings.Split(outside, "/"))
		r.problem(file, 0, fmt.Sprintf("data at %q is outside the manifest's roots %q", outside, r.bundle.roots))
	}
}

// checkEntryPoints refuses a bundle whose entry points exist as WebAssembly only. OPA's compiler removes their rules from the Rego; without
// them the entry points would be undefined.
func (r *reader) checkEntryPoints() {
	for _, w := range r.manifest.WasmResolvers {
		entry := strings.Trim(w.Entrypoint, "/")
		defined := slices.ContainsFunc(slices.Collect(keys(r.bundle.modules)), func(file string) bool {
			m := r.bundle.modules[file]
			pkg := strings.Join(rego.Path(m.Package.Path), "/")
			return pkg == entry && len(m.Rules) > 0 || slices.ContainsFunc(m.Rules, func(rule *ast.Rule) bool {
				return strings.Join(rego.Path(rule.Ref().GroundPrefix()), "/") == entry
			})
		})
		if !defined {
			r.problem(manifestFile, 0, fmt.Sprintf("the rules of %q are there as WebAssembly only, in %s: build the bundle with the target rego or plan",
				entry, strings.TrimPrefix(w.Module, "/")))
		}
	}
}

// outsideRoots returns the path of the first value that is outside all roots and not an ancestor of one.
func outsideRoots(node map[string]any, at []string, roots []string) string {
	for _, key := range slices.Sorted(keys(node)) {
		here := append(slices.Clone(at), key)
		where := strings.Join(here, "/")
		if opa.RootPathsContain(roots, where) {
			continue
		}
		child, ok := expand(node[key])
		onTheWay := slices.ContainsFunc(roots, func(root string) bool { return strings.HasPrefix(root, where+"/") })
		if !ok || !onTheWay {
			return where
		}
		if outside := outsideRoots(child, here, roots); outside != "" {
			return outside
		}
	}
	return ""
}

func keys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
