package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// printsNoData are the commands that have nothing to print in two ways, with the reason.
func printsNoData() map[string]string {
	return map[string]string{
		"gatehouse serve":                          "runs until it is stopped",
		"gatehouse demo":                           "a transcript",
		"gatehouse up":                             "runs until it is stopped",
		"gatehouse k8s inject":                     "runs until it is stopped",
		"gatehouse envoy generate":                 "prints the file that it makes",
		"gatehouse init":                           "writes files",
		"gatehouse migrate":                        "prints the file that it makes",
		"gatehouse bundle rm":                      "prints nothing",
		"gatehouse bundle login":                   "prints no data",
		"gatehouse bundle logout":                  "prints nothing",
		"gatehouse routes match":                   "always JSON",
		"gatehouse directory get":                  "always JSON",
		"gatehouse routes import flask":            "prints the table that it makes",
		"gatehouse routes import fastapi":          "prints the table that it makes",
		"gatehouse routes import django":           "prints the table that it makes",
		"gatehouse routes import openapi":          "prints the table that it makes",
		"gatehouse routes import log":              "prints the table that it makes",
		"gatehouse directory import":               "writes a file",
		"gatehouse directory export":               "writes files, or prints its formats",
		"gatehouse directory from ldif":            "writes files",
		"gatehouse directory from csv":             "writes files",
		"gatehouse directory from keycloak-export": "writes files",
		"gatehouse control serve":                  "runs until it is stopped",
		"gatehouse control environment":            "prints no data",
		"gatehouse control token create":           "prints the token alone",
		"gatehouse control token revoke":           "prints nothing",
		"gatehouse control enroll":                 "prints the token alone, or writes it",
		"gatehouse control revoke":                 "prints nothing",
		"gatehouse control directory import":       "prints no data",
		"gatehouse control directory set":          "prints no data",
		"gatehouse control directory delete":       "prints no data",
	}
}

// TestGrammarOfCommands holds what all commands have in common, over the tree of commands itself.
func TestGrammarOfCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	exempt := printsNoData()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := c.CommandPath()
		for _, below := range c.Commands() {
			if !below.Hidden && below.Name() != "help" && below.Name() != "completion" {
				walk(below)
			}
		}
		args := strings.Fields(path)[1:]
		if c.HasAvailableSubCommands() {
			if _, stderr, code := invoke(t, append(args, "no-such-command")...); code != 2 || !strings.Contains(stderr, "no-such-command") {
				t.Errorf("%s: an unknown command: exit code %d, %q", path, code, stderr)
			}
			return
		}
		if _, stderr, code := invoke(t, append(args, "--no-such-flag")...); code != 2 || !strings.Contains(stderr, path+" --help") {
			t.Errorf("%s: an unknown flag: exit code %d, %q", path, code, stderr)
		}
		if c.Short == "" || c.Example == "" && c.HasAvailableLocalFlags() && !slices.Contains([]string{"version", "demo", "unpin", "history", "images"}, c.Name()) {
			t.Errorf("%s: no short text, or no example", path)
		}
		flags := c.LocalFlags()
		if o := flags.Lookup("output"); o != nil && !o.Hidden && path != "gatehouse k8s generate" { // its -o is yaml, values or mesh
			if o.Shorthand != "o" || !strings.HasPrefix(o.Value.Type(), "text|json") || o.DefValue != "text" {
				t.Errorf("%s: --output is %q, %q, default %q", path, o.Shorthand, o.Value.Type(), o.DefValue)
			}
			if exempt[path] != "" {
				t.Errorf("%s has -o, and the test says that it prints no data", path)
			}
		} else if exempt[path] == "" && path != "gatehouse k8s generate" {
			t.Errorf("%s has no -o text|json, and the test does not say why", path)
		}
		if f := flags.Lookup("config"); f != nil && f.Shorthand != "c" {
			t.Errorf("%s: --config without -c", path)
		}
		for _, name := range []string{"timeout", "lifetime", "expires", "since", "until"} {
			if f := flags.Lookup(name); f != nil && f.Value.Type() == "duration" {
				if err := f.Value.Set("7d"); err != nil {
					t.Errorf("%s: --%s 7d: %v", path, name, err)
				}
			}
		}
	}
	walk(rootCommand())
}

// TestOldSpellings: what earlier versions took is taken, with a notice.
func TestOldSpellings(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, line := range []string{"version --json", "routes import openapi nowhere.yaml -o routes.yaml", "replay --format markdown"} {
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
