package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestCompletion asks the command that shells ask. "offered" stands for the first words that it offers, up to a tab each.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/log")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	write(t, "gatehouse.yaml", `routes: {file: routes.yaml}
directory: {file: directory}
identity: {jwt: [{issuer: "http://localhost/issuer", audiences: [shop], keys: {file: issuer/jwks.json}}]}
policy:
  decision: shop/allow
  bundles: [{name: shop, path: policy, signing: {keys: [{id: ci, file: public.pem, algorithm: ES256}]}}]
decision_log: {file: decisions.log}
`)
	write(t, "directory/directory.yaml", "objects: [{type: user, id: alice}, {type: user, id: bob}, {type: group, id: eng}, {type: role, id: auditor}]\n")
	for line, want := range map[string]string{
		"chec":                              "check",
		"completion ":                       "bash fish powershell zsh",
		"help bundle pu":                    "pull push",
		"check D":                           "DELETE",
		"check GET /":                       "/orders /orders/1 /reports/1",
		"check POST ":                       "/orders",
		"routes match routes.yaml DELETE ":  "/orders/1",
		"eval data.shop.al":                 "data.shop.allow",
		"bundle build policy --decision sh": "shop/allow shop/method shop/weekend",
		"explain X52":                       "X52SYXKMIAKADSS3G7SJLR6UBZ",
		"explain x52":                       "x52syxkmiakadss3g7sjlr6ubz",
		"explain AAA":                       "",
		"log grep --route orders.s":         "orders.show",
		"log grep --reason no_r":            "no_route",
		"check GET / --as ve":               "vera",
		"check GET / --as a":                "alice",
		"check GET / --role vi":             "viewer",
		"token mint --role aud":             "auditor",
		"token mint --aud ":                 "shop",
		"directory get directory gr":        "group:eng",
		"bundle verify x --key-id ":         "ci",
		"config explain policy.bundles[].n": "policy.bundles[].name",
		"version -o ":                       "text json",
		"serve --log-level ":                "debug info warn error",
		"status ":                           "",
	} {
		t.Run(line, func(t *testing.T) {
			args := append([]string{"__complete"}, strings.Split(line, " ")...)
			stdout, _, code := invoke(t, args...)
			var offered []string
			for text := range strings.Lines(stdout) {
				if !strings.HasPrefix(text, ":") && !strings.HasPrefix(text, "Completion ended") {
					word, _, _ := strings.Cut(strings.TrimSpace(text), "\t")
					offered = append(offered, word)
				}
			}
			if got := strings.Join(offered, " "); code != 0 || got != want && !(len(offered) > 4 && strings.HasPrefix(got, want)) {
				t.Errorf("%d %s", code, stdout)
			}
		})
	}
	// A log of any size costs the same: its end is read.
	log, err := os.ReadFile("decisions.log")
	if err != nil {
		t.Fatal(err)
	}
	write(t, "decisions.log", strings.Repeat(strings.ReplaceAll(string(log), "X52S", "A52S"), 50)+string(log))
	if stdout, _, _ := invoke(t, "__complete", "explain", "A52"); strings.Count(stdout, "\n") != 2 {
		t.Error(stdout)
	}
	write(t, "decisions.log", strings.ReplaceAll(string(log), "X52S", "B52S")+strings.Repeat(string(log), 50))
	if stdout, _, _ := invoke(t, "__complete", "explain", "B52"); strings.Contains(stdout, "B52S") {
		t.Error(stdout)
	}
	// What is broken offers nothing and says nothing.
	write(t, "gatehouse.yaml", "policy: [\n")
	for _, line := range []string{"explain ", "check GET ", "eval ", "check GET / --as "} {
		stdout, stderr, code := invoke(t, append([]string{"__complete"}, strings.Split(line, " ")...)...)
		if code != 0 || !strings.HasPrefix(stdout, ":") || strings.Contains(stderr, "yaml") {
			t.Errorf("%s: %d %q %q", line, code, stdout, stderr)
		}
	}
}

// TestUnknownCommands: what was meant, by a name that is nearly so, one elsewhere, or one of another program; exit code 2.
func TestUnknownCommands(t *testing.T) {
	for line, want := range map[string]string{
		"chek":                "gatehouse check",
		"logs":                "gatehouse log tail",
		"run":                 "gatehouse serve",
		"unpin":               "gatehouse bundle unpin",
		"bundle pusch":        "gatehouse bundle push",
		"help bundle pusch":   "gatehouse bundle push",
		"help nonsense":       "",
		"completion nonsense": "",
		"completion bsh":      "gatehouse completion bash",
		"nonsense":            "",
		"check GET / --rol x": "--role",
	} {
		_, stderr, code := invoke(t, strings.Fields(line)...)
		if meant := fmt.Sprintf("did you mean %s?", want); code != 2 || strings.Contains(stderr, "did you mean") != (want != "") || want != "" && !strings.Contains(stderr, meant) || !strings.Contains(stderr, "--help lists") {
			t.Errorf("%s: exit code %d, %s", line, code, stderr)
		}
	}
}
