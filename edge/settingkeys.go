package edge

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"gatehouse/config"
	"gatehouse/gate"
)

// settingKeys are the keys under which the gate's settings stand, by the paths of a gate.FieldError. Numbers are those of lists.
var settingKeys = map[string]string{
	"Timeout": "policy.timeout",
	"Apps":    "apps", "Apps[#]": "apps[#]", "Apps[#].Hosts": "apps[#].match.hosts",
	"Limits.Message": "limits.message", "Limits.Headers": "limits.headers", "Limits.Concurrent": "limits.concurrent",
	"Bypass[#]":        "bypass[#]",
	"Denials.LoginURL": "denials.login_url", "Denials.Templates": "denials.templates", "Denials.Templates[#]": "denials.templates.#",
	"Headers": "headers", "Headers.Subject": "headers.subject", "Headers.Roles": "headers.roles", "Headers.Groups": "headers.groups",
	"Headers.Scopes": "headers.scopes", "Headers.Email": "headers.email", "Headers.JSON": "headers.json", "Headers.Token": "headers.jwt.name",
	"Headers.Audience": "headers.jwt.audience", "Headers.Minter": "headers.jwt",
}

var index = regexp.MustCompile(`[0-9]+`)

// keyOf is the key of a gate.FieldError's path; the path itself where it has none.
func keyOf(path string) string {
	key, known := settingKeys[index.ReplaceAllString(path, "#")]
	if !known {
		return path
	}
	number := index.FindString(path)
	return strings.ReplaceAll(key, "#", number)
}

// withKeys makes errors about keys of the errors about settings that err joins.
func withKeys(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, withKeys(e))
		}
		return errors.Join(all...)
	}
	field, ok := errors.AsType[*gate.FieldError](err)
	if !ok {
		return err
	}
	wrong := field.Err
	if errors.Is(wrong, gate.ErrDecisionOrRoot) {
		wrong = errors.New("set one of policy.decision and policy.root")
	}
	if same, ok := errors.AsType[*gate.SameHeaderError](wrong); ok {
		section := len("headers.")
		wrong = fmt.Errorf("%s and %s are both %q", keyOf("Headers." + same.First)[section:], keyOf("Headers." + same.Second)[section:], same.Name)
	}
	return &config.KeyError{Path: keyOf(field.Path), Err: wrong}
}
