package reach

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/builtins"
)

// Use is a place where a policy uses a built-in or a part of the input.
type Use struct {
	What string // the built-in's name, or the path: input.attributes.request.time
	File string // the bundle's name and the file in it; empty if unknown
	Line int
}

// String returns what is used, and where.
func (u Use) String() string {
	if u.File == "" {
		return u.What
	}
	return fmt.Sprintf("%s (%s:%d)", u.What, u.File, u.Line)
}

// call records a function call, unless the function is the policy's own, pure, or pure except for Facts.
func (c *collector) call(ref ast.Ref) {
	if len(ref) == 0 || ref[0].Equal(ast.DefaultRootDocument) {
		return
	}
	use := c.use(ref.String(), ref[0].Location)
	class := builtins.Of(use.What)
	c.asks = c.asks || class == builtins.Asked
	if class != builtins.Pure && class != builtins.Asked && !slices.Contains(c.impure, use) {
		c.impure = append(c.impure, use)
	}
}

// use returns a Use at a location, or at the current rule if there is none.
func (c *collector) use(what string, at *ast.Location) Use {
	if at == nil || at.File == "" {
		at = c.near
	}
	if at == nil {
		return Use{What: what}
	}
	return Use{What: what, File: at.File, Line: at.Row}
}

// changing are the parts of the input that differ in nearly every request.
var changing = [][]string{
	{"attributes", "request", "http", "headers", "x-request-id"},
	{"attributes", "request", "http", "headers", "traceparent"},
	{"attributes", "request", "http", "headerMap"},
	{"attributes", "request", "http", "id"},
	{"attributes", "request", "time"},
	{"attributes", "source", "address", "socketAddress", "portValue"},
}

// changingReads returns the references to such input, each once.
func (c *collector) changingReads() []Use {
	var found []Use
	for _, path := range changing {
		if !c.reads.has(path) {
			continue
		}
		for _, use := range c.inputs {
			if covers(use.What, path) && !slices.Contains(found, use) {
				found = append(found, use)
			}
		}
	}
	return found
}

// covers reports whether a reference, as text, reads the value at a path or a part of it.
func covers(ref string, path []string) bool {
	at := "input." + strings.Join(path, ".") + "."
	return strings.HasPrefix(at, ref+".") || strings.HasPrefix(ref+".", at)
}
