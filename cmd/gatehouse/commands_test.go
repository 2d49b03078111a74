package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// printsNoData are the commands that have nothing to print in two ways, with the reason.
func printsNoData() map[string]string {
	const file, stays = "prints the file that it makes", "runs until it is stopped"
	return map[string]string{
		"gatehouse serve":                 stays,
		"gatehouse demo":                  "a transcript",
		"gatehouse up":                    stays,
		"gatehouse k8s inject":            stays,
		"gatehouse k8s generate":          "its -o is yaml, values or mesh",
		"gatehouse envoy generate":        file,
		"gatehouse init":                  "writes files",
		"gatehouse migrate":               file,
		"gatehouse routes import flask":   file,
		"gatehouse routes import fastapi": file,
		"gatehouse routes import django":  file,
		"gatehouse routes import openapi": file,
		"gatehouse routes import log":     file,
		"gatehouse directory export":      "writes files, or prints its formats",
		"gatehouse control serve":         stays,
		"gatehouse docs builtins":         file,
		"gatehouse docs cli":              file,
		"gatehouse docs config":           file,
		"gatehouse docs doctor":           file,
		"gatehouse docs man":              "writes files",
		"gatehouse help":                  "help",
		"gatehouse completion bash":       file,
		"gatehouse completion fish":       file,
		"gatehouse completion powershell": file,
		"gatehouse completion zsh":        file,
	}
}

// allCommands is the tree of commands with those that cobra adds.
func allCommands() *cobra.Command {
	root := rootCommand()
	root.InitDefaultHelpCmd()
	return root
}

// TestGrammarOfCommands holds what all commands have in common, over the tree of commands itself.
func TestGrammarOfCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	exempt := printsNoData()
	eachCommand(allCommands(), func(c *cobra.Command) {
		path := c.CommandPath()
		args := strings.Fields(path)[1:]
		if stdout, stderr, code := invoke(t, append(args, "--help")...); code != 0 || stderr != "" || c.HasParent() && (!strings.Contains(stdout, "\nExamples:\n") || !strings.Contains(c.Example, "gatehouse ")) {
			t.Errorf("%s --help: exit code %d, or no example:\n%s%s", path, code, stdout, stderr)
		}
		if c.HasSubCommands() || c.Name() == "help" {
			if _, stderr, code := invoke(t, append(args, "no-such-command")...); code != 2 || !strings.Contains(stderr, "no-such-command") {
				t.Errorf("%s: an unknown command: exit code %d, %q", path, code, stderr)
			}
		}
		if _, stderr, code := invoke(t, append(args, "--no-such-flag")...); code != 2 || !strings.Contains(stderr, path+" --help") {
			t.Errorf("%s: an unknown flag: exit code %d, %q", path, code, stderr)
		}
		if c.Short == "" {
			t.Errorf("%s: no short text", path)
		}
		if c.HasSubCommands() {
			return
		}
		flags := c.LocalFlags()
		switch o := flags.Lookup("output"); {
		case exempt[path] != "":
			if o != nil && !o.Hidden && path != "gatehouse k8s generate" {
				t.Errorf("%s has -o, and the test says that it needs none", path)
			}
			delete(exempt, path)
		case o == nil || o.Hidden:
			t.Errorf("%s has no -o text|json, and the test does not say why", path)
		case o.Shorthand != "o" || !strings.HasPrefix(o.Value.Type(), "text|json") || o.DefValue != "text":
			t.Errorf("%s: --output is %q, %q, default %q", path, o.Shorthand, o.Value.Type(), o.DefValue)
		}
		if f := flags.Lookup("config"); f != nil && path != "gatehouse k8s inject" && (f.Shorthand != "c" || f.DefValue != "" || !strings.Contains(f.Usage, "(default: gatehouse.yaml")) {
			t.Errorf("%s: --config is -%s, default %q: %s", path, f.Shorthand, f.DefValue, f.Usage)
		}
		flags.VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() != "duration" {
				return
			}
			if err := f.Value.Set("7d"); err != nil || f.Value.String() != "7d" {
				t.Errorf("%s: --%s 7d is %s, %v", path, f.Name, f.Value, err)
			}
		})
		for name, usage := range map[string]string{"since": "(90m, 36h, 7d)", "until": ""} {
			if f := flags.Lookup(name); f != nil && (f.Value.Type() != "string" || !strings.Contains(f.Usage, usage) || flags.Lookup("since") == nil) {
				t.Errorf("%s: --%s: %s", path, name, f.Usage)
			}
		}
	})
	for path := range exempt {
		t.Errorf("there is no %s", path)
	}
}

// TestOldSpellings: what earlier versions took is taken, with a notice.
func TestOldSpellings(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, line := range []string{"version --json", "routes import openapi nowhere.yaml -o routes.yaml", "replay --format markdown",
		"token mint --lifetime 7d", "control enroll --valid 7d", "control token create x --valid 7d", "control directory set user:a --expires-in 7d"} {
		_, stderr, _ := invoke(t, strings.Fields(line)...)
		if !strings.Contains(stderr, "notice: -") || !strings.Contains(stderr, "this version only") {
			t.Errorf("%s: %q", line, stderr)
		}
	}
	if stdout, stderr, code := invoke(t, "version", "-o", "json"); code != 0 || stderr != "" || !strings.Contains(stdout, `"envoy_api":"v`) {
		t.Errorf("%d %s%s", code, stdout, stderr)
	}
	if _, stderr, code := invoke(t, "version", "-o", "xml"); code != 2 || !strings.Contains(stderr, "there are text, json") {
		t.Errorf("%d %s", code, stderr)
	}
}
