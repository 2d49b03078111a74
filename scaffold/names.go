package scaffold

import (
	"path/filepath"
	"slices"
	"strings"

	"gatehouse/routes"
)

// AppName is what to call an application: its first module, or the description's file.
func AppName(kind, target string) string {
	if kind != routes.OpenAPI {
		module, _, _ := strings.Cut(target, ":")
		first, _, _ := strings.Cut(module, ".")
		return Identifier(first)
	}
	target, _, _ = strings.Cut(target, "?")
	base := filepath.Base(target)
	return Identifier(strings.TrimSuffix(base, filepath.Ext(base)))
}

// keywords cannot stand unquoted in a reference.
var keywords = []string{"as", "contains", "data", "default", "else", "every", "false", "if", "import", "in", "input", "not", "null", "package",
	"some", "true", "with"}

// reserved are names below data that are taken: OPA's own, and those of the generated table of roles.
var reserved = []string{"system", "roles", "anyone"}

// Identifier makes a package name out of any text.
func Identifier(text string) string {
	name := strings.TrimRight(strings.Map(func(r rune) rune {
		if r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' {
			return r
		}
		return '_'
	}, text), "_")
	switch {
	case name == "":
		return "app"
	case '0' <= name[0] && name[0] <= '9', slices.Contains(keywords, name), slices.Contains(reserved, name):
		return "app_" + name
	}
	return name
}
