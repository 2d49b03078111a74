package bounds

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

const (
	maxPaths     = 100_000
	maxPath      = 1000 // nodes
	maxPathNodes = 4 << 20
)

func graphOperands(args []*ast.Term) (graph ast.Object, start []*ast.Term, ok bool) {
	graph, ok = args[0].Value.(ast.Object)
	switch args[1].Value.(type) {
	case *ast.Array, ast.Set:
	default:
		ok = false
	}
	each(args[1].Value, func(t *ast.Term) bool { start = append(start, t); return false })
	return graph, start, ok
}

// edges returns a node's neighbours, nil if it is not in the graph.
func edges(graph ast.Object, node *ast.Term) *ast.Term { return graph.Get(node) }

// reachable is graph.reachable. OPA's implementation queues a node once for each path to it.
func reachable(original topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		graph, queue, ok := graphOperands(args)
		if !ok {
			return original(bctx, args, iter)
		}
		reached := ast.NewSet()
		for len(queue) > 0 {
			node := queue[0]
			queue = queue[1:]
			to := edges(graph, node)
			if to == nil || reached.Contains(node) {
				continue
			}
			if bctx.Cancel != nil && bctx.Cancel.Cancelled() {
				return cancelled("graph.reachable")
			}
			reached.Add(node)
			each(to.Value, func(t *ast.Term) bool {
				if !reached.Contains(t) {
					queue = append(queue, t)
				}
				return false
			})
		}
		return iter(ast.NewTerm(reached))
	}
}

// paths is the state of one graph.reachable_paths call.
type paths struct {
	graph  ast.Object
	cancel topdown.Cancel
	path   []*ast.Term
	on     ast.Set // the nodes of path
	found  ast.Set
	nodes  int // of the paths found, and nodes visited

	ended     string // the limit that was exceeded
	cancelled bool
}

// reachablePaths is graph.reachable_paths. A graph of 1.8 KB can have an astronomical number of paths.
func reachablePaths(original topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		graph, start, ok := graphOperands(args)
		if !ok {
			return original(bctx, args, iter)
		}
		found := ast.NewSet()
		p := paths{graph: graph, cancel: bctx.Cancel, found: found}
		for _, node := range start {
			p.from(node)
			switch {
			case p.cancelled:
				return cancelled("graph.reachable_paths")
			case p.ended != "":
				return limit("graph.reachable_paths", bctx.Location, p.ended)
			}
		}
		return iter(ast.NewTerm(found))
	}
}

func cancelled(name string) error {
	return topdown.Halt{Err: &topdown.Error{Code: topdown.CancelErr, Message: name + ": timed out"}}
}

// from finds the paths from one node. As in OPA, its neighbours are visited even where the node is its own neighbour.
func (p *paths) from(node *ast.Term) {
	to := edges(p.graph, node)
	if to == nil {
		return
	}
	p.path, p.on = append(p.path[:0], node), ast.NewSet(node)
	n := 0
	each(to.Value, func(next *ast.Term) bool {
		n++
		p.visit(next)
		return p.done()
	})
	if n == 0 {
		p.commit()
	}
}

func (p *paths) done() bool { return p.cancelled || p.ended != "" }

func (p *paths) commit() {
	p.nodes += len(p.path)
	p.found.Add(ast.ArrayTerm(append([]*ast.Term(nil), p.path...)...))
	if p.found.Len() > maxPaths {
		p.ended = "more than 100000 paths"
	}
}

// visit continues from a node that is not on the path yet.
func (p *paths) visit(node *ast.Term) {
	p.nodes += 1 + len(p.path)/8
	switch {
	case p.done():
		return
	case p.nodes > maxPathNodes, len(p.path) > maxPath:
		p.ended = "paths that are too long, or too many"
		return
	case p.cancel != nil && p.cancel.Cancelled():
		p.cancelled = true
		return
	}
	to := edges(p.graph, node)
	if to == nil { // not in the graph: the path ends before it
		p.commit()
		return
	}
	outer := p.on
	p.path, p.on = append(p.path, node), p.with(node)
	n := 0
	each(to.Value, func(next *ast.Term) bool {
		n++
		if p.on.Contains(next) {
			p.commit()
		} else {
			p.visit(next)
		}
		return p.done()
	})
	if n == 0 {
		p.commit()
	}
	p.path, p.on = p.path[:len(p.path)-1], outer
}

// with returns the path's nodes plus one.
func (p *paths) with(node *ast.Term) ast.Set {
	p.nodes += p.on.Len()
	on := p.on.Copy()
	on.Add(node)
	return on
}
