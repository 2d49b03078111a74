package docs

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gatehouse/gate"
	"gatehouse/identity"
)

// TestIdentityTypes holds that input.md lists the types of identities that there are, and that no policy of a page asks for another one.
func TestIdentityTypes(t *testing.T) {
	types := []string{identity.TypeNone, identity.TypeJWT, identity.TypeSub}
	for _, name := range types {
		if !strings.Contains(find(t, "docs/input.md").text, "`"+name+"`") {
			t.Errorf("docs/input.md lacks %s", name)
		}
	}
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			for _, name := range regexp.MustCompile(`\bIDENTITY_TYPE_\w+`).FindAllString(b.text, -1) {
				if b.language == "rego" && !slices.Contains(types, name) {
					t.Errorf("%s: there is no %s", p.where(b), name)
				}
			}
		}
	}
}

// TestElsewhere holds that the tests of other packages that run a page are there, and name it.
func TestElsewhere(t *testing.T) {
	for name, test := range elsewhere {
		function, dir, _ := strings.Cut(test, " in ")
		found := false
		for _, file := range sorted(t, filepath.Join("..", dir, "*_test.go")) {
			text, err := os.ReadFile(file)
			fail(t, err)
			_, after, ok := strings.Cut(string(text), "func "+function+"(")
			found = found || ok && strings.Contains(after, path.Base(name))
		}
		if !found {
			t.Errorf("%s: there is no %s, or it does not read the page", name, test)
		}
	}
}

func sorted(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	fail(t, err)
	return files
}

// TestReasons holds that reasons.md lists the gate's reasons, in their order, with their statuses.
func TestReasons(t *testing.T) {
	var want []string
	for r := gate.None + 1; ; r++ {
		want = append(want, fmt.Sprintf("| `%s` | %d |", r, r.Status()))
		if r == gate.Internal {
			break
		}
	}
	text := find(t, "docs/reasons.md").text
	got := regexp.MustCompile("(?m)^\\| `\\w+` \\| \\d+ \\|").FindAllString(text, -1)
	if !slices.Equal(got, want) {
		t.Errorf("docs/reasons.md lists %q, and the gate has %q", got, want)
	}
	for _, row := range want {
		name := strings.Split(row, "`")[1]
		if strings.Count(text, "\n| `"+name+"` |") != 2 {
			t.Errorf("docs/reasons.md does not say what to do about %s", name)
		}
	}
}

// bold are the texts of the changelog that change what people have.
var bold = regexp.MustCompile(`\*\*([^*]+)\*\*`)

// TestUpgradeNotes holds that the first column of upgrade.md is in the changelog, and that nothing bold of a version that is released is missing.
func TestUpgradeNotes(t *testing.T) {
	changelog, err := os.ReadFile("../CHANGELOG.md")
	fail(t, err)
	notes := find(t, "docs/upgrade.md").text
	for _, found := range regexp.MustCompile(`(?m)^\| (\*\*[^|]+\*\*) \|`).FindAllStringSubmatch(notes, -1) {
		if !strings.Contains(string(changelog), found[1]) {
			t.Errorf("docs/upgrade.md: the changelog does not say %s", found[1])
		}
	}
	_, released, _ := strings.Cut(string(changelog), "\n## Unreleased\n")
	_, released, _ = strings.Cut(released, "\n## ")
	for _, found := range bold.FindAllStringSubmatch(released, -1) {
		if !strings.Contains(found[1], "/**") && !strings.Contains(notes, found[0]) {
			t.Errorf("docs/upgrade.md lacks %s", found[0])
		}
	}
}

// named are the how-tos and symptoms that have to be found at once: pages, or headings of them.
var named = []string{
	"howto-envoy.md", "howto-cors.md", "howto-streams.md", "howto-uploads.md", "howto-login.md", "howto-service-accounts.md", "howto-several-apps.md",
	"howto-tenants.md", "howto-ci.md", "howto-incident.md#why-was-alice-denied", "howto-incident.md#revoke-now", "howto-incident.md#roll-back",
	"troubleshooting.md#403-no_route", "troubleshooting.md#503-not_ready", "troubleshooting.md#ext_authz_error", "troubleshooting.md#an-empty-500",
	"production.md", "upgrade.md", "faq.md", "reasons.md",
}

// TestNamedIsTwoClicksAway walks the links from README.md: what is named is at most two of them away, at its heading.
func TestNamedIsTwoClicksAway(t *testing.T) {
	clicks := map[string]int{"README.md": 0}
	for distance := range 2 {
		for _, p := range pages(t) {
			if at, ok := clicks[p.name]; !ok || at != distance {
				continue
			}
			for _, found := range link.FindAllStringSubmatch(p.text, -1) {
				target, anchor, _ := strings.Cut(found[1], "#")
				to := path.Join(path.Dir(p.name), target)
				for _, name := range []string{to, to + "#" + anchor} {
					if _, ok := clicks[name]; !ok {
						clicks[name] = distance + 1
					}
				}
			}
		}
	}
	for _, name := range named {
		if _, ok := clicks["docs/"+name]; !ok {
			t.Errorf("docs/%s is more than two clicks from README.md", name)
		}
	}
}

// find is the page of that name.
func find(t *testing.T, name string) *page {
	t.Helper()
	for _, p := range pages(t) {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("there is no %s", name)
	return nil
}
