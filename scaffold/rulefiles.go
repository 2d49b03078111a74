package scaffold

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gatehouse/routes"
)

// stubs writes a file for each package.
func (s *Scaffold) stubs(all []*rule) error {
	return s.stubsBeside(all, map[string]bool{})
}

// stubsBeside does so beside files that are there already, whose names are taken.
func (s *Scaffold) stubsBeside(all []*rule, taken map[string]bool) error {
	byPackage := map[string][]*rule{}
	var order []string
	for _, r := range all {
		key := strings.Join(r.path, "\x00")
		if byPackage[key] == nil {
			order = append(order, key)
		}
		byPackage[key] = append(byPackage[key], r)
	}
	for _, key := range order {
		if err := s.ctx.Err(); err != nil {
			return ErrInterrupted
		}
		rules := byPackage[key]
		named := *rules[0]
		named.path = named.path[max(0, s.rootTerms-1):]
		file := ruleFile(&named, taken)
		for _, r := range rules {
			r.file = file
		}
		if err := s.render(file, "route.rego.tmpl", s.stubOf(rules)); err != nil {
			return err
		}
	}
	s.stubFiles = len(order)
	return nil
}

// stub is what the template of a rule's file is made with.
type stub struct {
	Routes         []string
	Package, Param string
	Rules, Open    []string // names of rules, and of those that hold for everybody
	First          string   // the rule that examples are shown with
	Why            string   // it is open
	Method, Prefix bool
}

func (s *Scaffold) stubOf(rules []*rule) stub {
	made := stub{Package: packageName(rules[0].path), First: rules[0].name}
	made.Method, made.Prefix = rules[0].name != "allowed", rules[0].method == ""
	var listed []*routes.Route
	for _, r := range rules {
		made.Rules = append(made.Rules, r.name)
		if r.open != "" {
			made.Open, made.Why = append(made.Open, r.name), r.open
		}
		for _, route := range r.routes {
			if slices.Contains(listed, route) {
				continue
			}
			listed = append(listed, route)
			line := strings.Join(route.RuleMethods(), ", ") + " " + route.Host + route.Template
			if route.Name != "" {
				line += "   (" + route.Name + ")"
			}
			made.Routes = append(made.Routes, oneLine(line))
		}
	}
	if made.Prefix {
		const most = 20
		if n := len(made.Routes); n > most {
			made.Routes = append(made.Routes[:most:most], fmt.Sprintf("... and %d more", n-most))
		}
		return made
	}
	if m := s.sampleOf(rules[0]).match; len(m.Params) > 0 {
		made.Param = term(m.Params[len(m.Params)-1].Name)
	}
	return made
}

// oneLine keeps a comment from ending early.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x2028 || r == 0x2029 || r == 0x85 {
			return ' '
		}
		return r
	}, text)
}

// ruleFile is where a rule is found by its route: policy/GET/orders/__id.rego. What files cannot be called, or what the
// policy's reader passes over, is changed; a name that is taken gets a number.
func ruleFile(r *rule, taken map[string]bool) string {
	const deepest, longest = 12, 60
	terms := slices.Clone(r.path[1:]) // the root is the same everywhere
	if len(terms) > deepest {
		terms = append(terms[:deepest-1:deepest-1], strings.Join(terms[deepest-1:], "_"))
	}
	if len(terms) == 1 {
		terms = append(terms, "index")
	}
	for i, t := range terms {
		if t == "/**" {
			t = "all"
		}
		t = notInFile.ReplaceAllString(t, "_")
		if strings.HasPrefix(t, ".") || i < len(terms)-1 { // hidden files and editors' leftovers are passed over
			t = strings.ReplaceAll(t, ".", "_")
		}
		terms[i] = t[:min(len(t), longest)]
	}
	name := "policy/" + strings.Join(terms, "/")
	if strings.HasSuffix(name, "_test") {
		name += "_" // OPA takes the other for a file of tests
	}
	for base, n := name, 2; taken[strings.ToLower(name)]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	taken[strings.ToLower(name)] = true
	return name + ".rego"
}

var notInFile = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// packageName writes a path as a package: orders.GET["a-b"].__id. Words of the language are put in quotes as well.
func packageName(path []string) string {
	var out strings.Builder
	out.WriteString(path[0])
	for _, t := range path[1:] {
		out.WriteString(term(t))
	}
	return out.String()
}

// term is one step of a reference.
func term(name string) string {
	if plainTerm.MatchString(name) && !slices.Contains(keywords, name) {
		return "." + name
	}
	quoted, _ := json.Marshal(name) // a text always encodes
	return "[" + string(quoted) + "]"
}

var plainTerm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
