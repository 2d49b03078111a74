package regoerror_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/regoerror"
)

// before stands in front of each rule of TestErrors, which begins in line 5.
const before = "package envoy.authz\n\nis_admin if input.user.roles\n\n"

func TestErrors(t *testing.T) {
	tests := []struct {
		rego string
		at   string // the source from the column on begins so; "": there is no source
		text string
	}{
		{`allow if inptu.user`, "inptu", "var inptu is unsafe; did you mean input?"},
		{`allow if is_admim`, "is_admim", "var is_admim is unsafe; did you mean is_admin?"},
		{`allow if { mine := input.roles; "a" in mien }`, "mien", "var mien is unsafe; did you mean mine?"},
		{`allow if input.x == unheard_of_word`, "unheard_of_word", "var unheard_of_word is unsafe: nothing gives it a value"},
		{"allow if {\n\tinput.x == \"ä\"; not y\n}", "y\n", "var y is unsafe: nothing gives it a value"},
		{`allow if startwith(input.path, "/")`, "startwith", "there is no function or built-in startwith; did you mean startswith?"},
		{`allow if is_admin(1)`, "is_admin(", ""},
		{`allow if is_admin()`, "is_admin(", "is_admin is a rule and no function: write it without ()"},
		{`allow if http.send({})`, "http.send", "the built-in http.send is off by default"},
		{`allow if input.a and input.b`, "and input.b", "Rego has no and: write one condition per line within { }"},
		{"allow if {\n\tinput.a and input.b\n}", "and input.b", "Rego has no and: write one condition per line within { }"},
		{`allow if input.a or input.b`, "or input.b", "Rego has no or: write a second rule of the same name"},
		{"allow if {\n\tinput.a or input.b\n}", "or input.b", "Rego has no or: write a second rule of the same name"},
		{"allow if {\n\tinput.a == 1 and\n\tinput.b == 2\n}", "and", "Rego has no and: write one condition per line within { }"},
		{`allow if input.a && input.b`, "& input.b", "unexpected and token: Rego has no &&"},
		{`allow if input.a || input.b`, "| input.b", "unexpected or token: Rego has no ||"},
		{`allow { input.a }`, "allow", "`if` keyword is required before rule body: write name if { ... }"},
		{`allow if input.a === 1`, "= 1", "unexpected eq token: values are compared with =="},
		{`allow if input.a == "x`, `"x`, "illegal token: is the string closed"},
		{`allow if input.a == 'x'`, "'x'", "illegal token: strings stand in double quotes"},
		{`allow if !input.a`, "!", ": a negation is written: not"},
		{`package other`, "package", "unexpected package: a file has one package"},
		{"import data.x\nimport data.x", "", "import must not shadow"},
	}
	for _, test := range tests {
		found := errorOf(t, before+test.rego+"\n")
		if !strings.Contains(found.Text, test.text) {
			t.Errorf("%s: %q, want %q", test.rego, found.Text, test.text)
		}
		if test.at == "" {
			if found.Source != "" {
				t.Errorf("%s: source %q", test.rego, found.Source)
			}
			continue
		}
		runes := []rune(found.Source + "\n")
		if found.Column < 1 || found.Column > len(runes) || !strings.HasPrefix(string(runes[found.Column-1:]), test.at) || found.Line < 5 {
			t.Errorf("%s: line %d, column %d of %q, want %q there", test.rego, found.Line, found.Column, found.Source, test.at)
		}
	}
}

// errorOf is the first error of a module.
func errorOf(t *testing.T, text string) regoerror.Error {
	t.Helper()
	capabilities := ast.CapabilitiesForThisVersion()
	for i, b := range capabilities.Builtins {
		if b.Name == "http.send" {
			capabilities.Builtins = append(capabilities.Builtins[:i:i], capabilities.Builtins[i+1:]...)
			break
		}
	}
	module, err := ast.ParseModule("a.rego", text)
	var many ast.Errors
	if errors.As(err, &many) {
		return regoerror.Parsing(many[len(many)-1], text)
	} else if err != nil {
		t.Fatal(err)
	}
	modules := map[string]*ast.Module{"a.rego": module}
	c := ast.NewCompiler().WithCapabilities(capabilities)
	if c.Compile(modules); !c.Failed() {
		t.Fatalf("no error:\n%s", text)
	}
	return regoerror.Compiling(c.Errors[0], modules)
}

// FuzzErrors: whatever the policy, there is a text, and the column is within reach of the line.
func FuzzErrors(f *testing.F) {
	for _, seed := range []string{"package a\n\nallow if x", "package a\nallow {", "package a\n\n\tp contains \"ä\" if q(1)\n", "\x00", "package a\np := f(\"\r\n\")"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var found regoerror.Error
		module, err := ast.ParseModule("a.rego", text)
		var many ast.Errors
		switch {
		case errors.As(err, &many):
			found = regoerror.Parsing(many[0], text)
		case err != nil || module == nil:
			return
		default:
			modules := map[string]*ast.Module{"a.rego": module}
			c := ast.NewCompiler()
			if c.Compile(modules); !c.Failed() {
				return
			}
			found = regoerror.Compiling(c.Errors[0], modules)
		}
		if found.Text == "" || strings.Contains(found.Source, "\n") {
			t.Errorf("%+v", found)
		}
	})
}
