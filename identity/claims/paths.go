package claims

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"gatehouse/identity/credential"
)

// CheckPath refuses a path that can never lead to a claim.
func CheckPath(path string) error {
	if strings.TrimSpace(path) == "" || !utf8.ValidString(path) || strings.ContainsFunc(path, credential.IsControl) {
		return fmt.Errorf("%q is not the name of a claim", path)
	}
	for name := range strings.FieldsSeq(path) {
		if name == namespaced || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			return fmt.Errorf("%q is not the name of a claim", name)
		}
	}
	return nil
}

// WithDefaults fills in what is empty, and reports each path that can never lead to a claim by the name of its field.
func (c Paths) WithDefaults(report func(field string, err error)) Paths {
	for _, p := range []struct {
		field, standard string
		path            *string
	}{{"Subject", "sub", &c.Subject}, {"Roles", "roles", &c.Roles}, {"Groups", "groups", &c.Groups}, {"Scopes", "scope", &c.Scopes}, {"Email", "email", &c.Email}} {
		if *p.path == "" {
			*p.path = p.standard
		}
		if err := CheckPath(*p.path); err != nil {
			report(p.field, err)
		}
	}
	return c
}

// listAt joins the lists that a path leads to.
func listAt(claims map[string]any, path string, read func(any) ([]string, bool)) ([]string, bool) {
	found, err := Lookup(claims, path)
	if err != nil {
		return nil, false
	}
	var all []string
	for _, value := range found {
		list, ok := read(value)
		if !ok {
			return nil, false
		}
		all = append(all, list...)
	}
	return all, true
}

// scopeList reads a string with spaces (RFC 6749 section 3.3) or a list of strings.
func scopeList(value any) ([]string, bool) {
	if text, ok := value.(string); ok {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ' ' }), true
	}
	return Strings(value)
}

// Strings reads a string or a list of strings; nothing, or null, is an empty list.
func Strings(value any) ([]string, bool) {
	switch value := value.(type) {
	case nil:
		return nil, true
	case string:
		return []string{value}, true
	case []any:
		list := make([]string, len(value))
		for i, element := range value {
			text, ok := element.(string)
			if !ok {
				return nil, false
			}
			list[i] = text
		}
		return list, true
	}
	return nil, false
}

// namespaced starts a path to the one claim whose name is a URL that ends in what follows.
const namespaced = "*/"

var errSeveralClaims = errors.New("several claims have such a name")

// Lookup finds the claims that a path, or several with spaces between them, lead to. Those that are missing or null are
// left out.
func Lookup(claims map[string]any, paths string) ([]any, error) {
	var found []any
	for path := range strings.FieldsSeq(paths) {
		value := lookup(claims, path)
		if strings.HasPrefix(path, namespaced) {
			for name, v := range claims {
				if !strings.HasPrefix(name, "https://") && !strings.HasPrefix(name, "http://") || !strings.HasSuffix(name, path[1:]) {
					continue
				}
				if value != nil {
					return nil, errSeveralClaims
				}
				value = v
			}
		}
		if value != nil {
			found = append(found, value)
		}
	}
	return found, nil
}

// lookup follows a dotted path. A claim whose own name is the path, or starts it, is found first, because names with dots in
// them (https://example.com/roles) are common.
func lookup(claims map[string]any, path string) any {
	if value, ok := claims[path]; ok {
		return value
	}
	for i := 0; i < len(path); i++ {
		if path[i] != '.' {
			continue
		}
		if inner, ok := claims[path[:i]].(map[string]any); ok {
			if value := lookup(inner, path[i+1:]); value != nil {
				return value
			}
		}
	}
	return nil
}
