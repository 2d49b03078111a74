package main

import (
	"bytes"
	"fmt"
	"html"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// Measures of a flame graph: pixels, and the least share of the whole that is drawn.
const (
	flameWidth = 1200.0
	flameLine  = 16
	flameLeast = 0.006
	flameDepth = 40
)

// flame is a function and what it called.
type flame struct {
	name     string
	value    int64
	children []*flame
}

func (f *flame) add(names []string, value int64) {
	f.value += value
	if len(names) == 0 {
		return
	}
	i := slices.IndexFunc(f.children, func(c *flame) bool { return c.name == names[0] })
	if i < 0 {
		i = len(f.children)
		f.children = append(f.children, &flame{name: names[0]})
	}
	f.children[i].add(names[1:], value)
}

// flameGraph draws a CPU profile as SVG: the width of a box is its share of the CPU, what stands on it are its callees. What is
// narrower than flameLeast is left out.
func flameGraph(title string, p *profile.Profile) []byte {
	root := &flame{name: title}
	for _, s := range p.Sample {
		root.add(frames(s), s.Value[len(s.Value)-1])
	}
	var boxes bytes.Buffer
	deepest := root.draw(&boxes, 0, 0, root.value)
	height := (deepest + 1) * flameLine
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="monospace" font-size="10">`+"\n", flameWidth, height)
	fmt.Fprintf(&out, `<g transform="matrix(1 0 0 -1 0 %d)">`+"\n%s</g>\n</svg>\n", height, boxes.Bytes())
	return out.Bytes()
}

// draw draws a box and those on it, from the bottom up, and returns the highest line.
func (f *flame) draw(out *bytes.Buffer, x float64, line int, whole int64) (deepest int) {
	width := flameWidth * float64(f.value) / float64(max(whole, 1))
	if width < flameWidth*flameLeast || line > flameDepth {
		return line
	}
	name := short(f.name)
	fmt.Fprintf(out, `<rect x="%.0f" y="%d" width="%.0f" height="%d" fill="%s"><title>%s %.1f %%</title></rect>`, x, line*flameLine, max(width-1, 1), flameLine-1, colour(f.name),
		html.EscapeString(name), 100*float64(f.value)/float64(whole))
	if fits := int(width / 6.2); fits > 3 {
		fmt.Fprintf(out, `<text transform="matrix(1 0 0 -1 %.0f %d)">%s</text>`, x+2, line*flameLine+4, html.EscapeString(name[:min(len(name), fits)]))
	}
	out.WriteByte('\n')
	deepest = line
	slices.SortFunc(f.children, func(a, b *flame) int { return strings.Compare(a.name, b.name) })
	for _, c := range f.children {
		deepest = max(deepest, c.draw(out, x, line+1, whole))
		x += flameWidth * float64(c.value) / float64(max(whole, 1))
	}
	return deepest
}

// short is a function's name without the path of its package.
func short(function string) string { return function[strings.LastIndexByte(function, '/')+1:] }

// colour tells ours from the rest.
func colour(function string) string {
	switch pkg := packageOf(function); {
	case strings.HasPrefix(pkg, "gatehouse"):
		return "#8fbc8f"
	case strings.HasPrefix(pkg, "google.golang.org/grpc"), strings.HasPrefix(pkg, "golang.org/x/net"):
		return "#f4c27a"
	case strings.HasPrefix(pkg, "github.com/open-policy-agent"):
		return "#9db8e0"
	}
	return "#d8d8d8"
}
