package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestEveryGoroutineRecovers finds every place where a goroutine is started. What it runs recovers from panics (package panics, or a recover of its
// own), or a comment that begins with "goroutine:" there says why it need not: a panic of one goroutine ends the process, and every decision
// with it.
func TestEveryGoroutineRecovers(t *testing.T) {
	root := filepath.Join("..", "..")
	found := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && rel != "." || rel == "hack" || d.Name() == "testdata" || d.Name() == "programs" || rel == "envoy" || rel == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		n, bad := goroutines(t, path, nil)
		found += n
		for _, where := range bad {
			t.Errorf("%s: a goroutine without a recover: use package panics, or say in a comment \"goroutine: ...\" why it needs none", where)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 30 {
		t.Errorf("only %d places were found: this test has lost its sight", found)
	}
}

// goroutines are how many places of a file start a goroutine, and those of them that do not recover.
func goroutines(t *testing.T, path string, src any) (found int, bad []string) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	reviewed := map[int]bool{}
	for _, group := range file.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "// goroutine: ") {
				line := files.Position(c.Pos()).Line
				reviewed[line], reviewed[line+1] = true, true
			}
		}
	}
	recovering := recoverers(file)
	ast.Inspect(file, func(n ast.Node) bool {
		var run ast.Expr
		switch n := n.(type) {
		case *ast.GoStmt:
			run = n.Call.Fun
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && len(n.Args) == 1 && (s.Sel.Name == "Go" || s.Sel.Name == "AfterFunc") {
				run = n.Args[0]
			} else if ok && s.Sel.Name == "AfterFunc" && len(n.Args) == 2 {
				run = n.Args[1]
			}
		}
		if run == nil {
			return true
		}
		found++
		if at := files.Position(n.Pos()); !reviewed[at.Line] && !recovers(run, recovering) {
			bad = append(bad, at.String())
		}
		return true
	})
	return found, bad
}

// recoverers are the functions of a file that defer a recover in their own body.
func recoverers(file *ast.File) (names []string) {
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil && recoversIn(f.Body, nil) {
			names = append(names, f.Name.Name)
		}
	}
	return names
}

func recovers(run ast.Expr, recovering []string) bool {
	switch run := run.(type) {
	case *ast.FuncLit:
		return recoversIn(run.Body, recovering)
	case *ast.SelectorExpr:
		return slices.Contains(recovering, run.Sel.Name)
	case *ast.Ident:
		return slices.Contains(recovering, run.Name)
	}
	return false
}

// recoversIn reports whether a body defers a recover, or hands all that it does to what recovers.
func recoversIn(body *ast.BlockStmt, recovering []string) (yes bool) {
	ast.Inspect(body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch f := call.Fun.(type) {
		case *ast.Ident:
			yes = yes || f.Name == "recover" || f.Name == "served" || slices.Contains(recovering, f.Name)
		case *ast.SelectorExpr:
			if x, ok := f.X.(*ast.Ident); ok && x.Name == "panics" {
				yes = yes || slices.Contains([]string{"Recover", "Into", "Loop", "LoopError"}, f.Sel.Name)
			}
			yes = yes || slices.Contains(recovering, f.Sel.Name)
		}
		return true
	})
	return yes
}

// TestGoroutinesAreFound holds what the test above sees.
func TestGoroutinesAreFound(t *testing.T) {
	const text = `package p
import "gatehouse/panics"
func f() {
	go func() { work() }()
	go func() { defer panics.Recover("x"); work() }()
	go work()
	go careful()
	wait.Go(func() { work() })
	wait.Go(work)
	wait.Go(func() { panics.Loop(ctx, "x", work) })
	time.AfterFunc(time.Second, func() { work() })
	// goroutine: it only sleeps
	go work()
}
func careful() { defer func() { recover() }() }
`
	found, bad := goroutines(t, "p.go", text)
	if want := []string{"p.go:4:2", "p.go:6:2", "p.go:8:2", "p.go:9:2", "p.go:11:2"}; found != 9 || !slices.Equal(bad, want) {
		t.Errorf("%d, %v", found, bad)
	}
}
