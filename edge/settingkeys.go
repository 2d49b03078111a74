package edge

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/policy"
)

// settingKeys maps the paths of gate.FieldError to configuration keys. Numbers are list indices.
var settingKeys = map[string]string{
	"Timeout": "policy.timeout",
	"Apps":    "apps", "Apps[#]": "apps[#]", "Apps[#].Hosts": "apps[#].match.hosts",
	"Limits.Message": "limits.message", "Limits.Headers": "limits.headers", "Limits.Concurrent": "limits.concurrent",
	"Bypass[#]":        "bypass[#]",
	"Permissions.Path": "permissions.path", "Permissions.MaxAge": "permissions.max_age",
	"Denials.LoginURL": "denials.login_url", "Denials.Templates": "denials.templates", "Denials.Templates[#]": "denials.templates.#",
	"Headers": "headers", "Headers.Subject": "headers.subject", "Headers.Roles": "headers.roles", "Headers.Groups": "headers.groups",
	"Headers.Scopes": "headers.scopes", "Headers.Email": "headers.email", "Headers.JSON": "headers.json", "Headers.Token": "headers.jwt.name",
	"Headers.Properties[#]": "headers.properties",
	"Headers.Audience":      "headers.jwt.audience", "Headers.Minter": "headers.jwt",
}

var index = regexp.MustCompile(`[0-9]+`)

// keyOf is the configuration key of a gate.FieldError's path; the path itself where it has none.
func keyOf(path string) string {
	key, known := settingKeys[index.ReplaceAllString(path, "#")]
	if !known {
		return path
	}
	number := index.FindString(path)
	return strings.ReplaceAll(key, "#", number)
}

// identityKeys are the keys of identity.Config's fields where they differ from the lower-cased field name.
var identityKeys = map[string]string{
	"Introspection": "identity.introspection", "APIKeys": "identity.api_keys", "Peer": "identity.peer.from",
	"ClientIDs": "client_ids", "Parties": "authorized_parties", "TokenUse": "token_use", "MaxAge": "max_age", "MaxStale": "max_stale",
	"ClockSkew": "clock_skew", "ClientID": "client_id", "SecretFile": "client_secret_file", "KeyFile": "private_key_file", "KeyID": "key_id",
	"AssertionAudience": "assertion_audience", "CacheFor": "cache_for",
}

var fieldName = regexp.MustCompile(`[A-Za-z]+`)

// identityKey reports an identity field's error under its key. An issuer is identified by name, because a preset may
// have added it.
func identityKey(field *identity.FieldError) error {
	of, path := "", field.Path
	if strings.HasPrefix(path, "Issuers[") {
		_, path, _ = strings.Cut(path, ".")
		of = "issuer " + field.Issuer + ": "
	}
	key := fieldName.ReplaceAllStringFunc(path, func(name string) string {
		if key, ok := identityKeys[name]; ok {
			return key
		}
		return strings.ToLower(name)
	})
	wrong := field.Err
	if inner, ok := wrong.(*identity.FieldError); ok { // an API key's header is a token source like the others
		wrong = &config.KeyError{Path: strings.ToLower(inner.Path), Err: inner.Err}
	}
	if !strings.HasPrefix(key, "identity.") {
		return &config.KeyError{Path: "identity", Err: fmt.Errorf("%s%s: %w", of, key, wrong)}
	}
	return &config.KeyError{Path: key, Err: wrong}
}

// WithKeys rewrites errors about fields of gate.Settings, identity.Config or policy.Capabilities, joined in err, to
// errors about keys of gatehouse.yaml.
func WithKeys(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, WithKeys(e))
		}
		return errors.Join(all...)
	}
	if field, ok := errors.AsType[*identity.FieldError](err); ok {
		return identityKey(field)
	}
	if host, ok := errors.AsType[*policy.HostError](err); ok {
		return &config.KeyError{Path: "policy.capabilities", Err: host}
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
