package gate

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/credential"
	"gatehouse/identity/mint"
	"gatehouse/input"
)

// maxIdentityHeader is the longest JSON header in bytes: the servers that limit a Minter's tokens limit it too.
const maxIdentityHeader = mint.MaxToken

// IdentityHeaders names the headers that tell the application who calls. An empty name sets nothing.
type IdentityHeaders struct {
	Subject, Email        string
	Roles, Groups, Scopes string // lists, joined with commas
	JSON                  string // an object with all of it, in base64
	Token                 string // a token of Minter's for Audience; then both are required

	// RolesFrom and GroupsFrom are the sources of the roles and groups that are sent: in their own headers, in JSON
	// and in Token.
	RolesFrom, GroupsFrom Origin
	// Properties are headers with properties of the caller's user in the directory.
	Properties []PropertyHeader

	Minter   *mint.Minter
	Audience string

	// RemoveCredential removes the credential, wherever the Verifier looks for one, from the request to the
	// application.
	RemoveCredential bool
}

// identityHeaders is how many headers tell the application who calls.
const identityHeaders = 7

// named are all of the names, with their fields.
func (h *IdentityHeaders) named() [identityHeaders]Header {
	return [...]Header{
		{Name: "Subject", Value: h.Subject}, {Name: "Roles", Value: h.Roles}, {Name: "Groups", Value: h.Groups},
		{Name: "Scopes", Value: h.Scopes}, {Name: "Email", Value: h.Email}, {Name: "JSON", Value: h.JSON}, {Name: "Token", Value: h.Token},
	}
}

// Names are the headers whose values the application trusts.
func (h *IdentityHeaders) Names() []string {
	var out []string
	for _, n := range h.named() {
		if n.Value != "" {
			out = append(out, n.Value)
		}
	}
	for _, p := range h.Properties {
		out = append(out, p.Name)
	}
	return out
}

// has reports whether the application trusts this header, given in lower case.
func (h *IdentityHeaders) has(name string) bool {
	return name != "" && (name == h.Subject || name == h.Roles || name == h.Groups || name == h.Scopes || name == h.Email ||
		name == h.JSON || name == h.Token || slices.ContainsFunc(h.Properties, func(p PropertyHeader) bool { return p.Name == name }))
}

func (h *IdentityHeaders) validate(v *identity.Verifier) error {
	var errs []error
	seen := map[string]string{}
	all := h.named()
	names := all[:]
	for i, p := range h.Properties {
		if p.Name == "" || p.Property == "" {
			errs = append(errs, fieldErrorf(element("Headers.Properties", i), "give a header and the name of a property"))
		}
		names = append(names, Header{Name: element("Properties", i), Value: p.Name})
	}
	for _, n := range names {
		field, name := n.Name, n.Value
		switch other := seen[name]; {
		case name == "":
			continue
		case input.Fold(name) != name || strings.HasPrefix(name, "-"):
			errs = append(errs, fieldErrorf("Headers."+field, "%q: use lower-case letters, digits and \"-\" only", name))
		case other != "":
			errs = append(errs, &FieldError{"Headers", &SameHeaderError{other, field, name}})
		case name == "cookie" || name == protocols || slices.ContainsFunc(v.Places(), func(s identity.TokenSource) bool { return s.Header == name }):
			errs = append(errs, fieldErrorf("Headers."+field, "%q is where credentials are looked for: give the application another header", name))
		}
		seen[name] = field
	}
	if h.Token != "" && h.Audience == "" {
		errs = append(errs, fieldErrorf("Headers.Audience", "required: without it every application would accept the token"))
	}
	if h.Token != "" && h.Minter == nil {
		errs = append(errs, fieldErrorf("Headers.Minter", "nothing makes the tokens"))
	}
	return errors.Join(errs...)
}

// trusted are the trusted headers with their values for this caller; out has room for them.
func (h *IdentityHeaders) trusted(id *identity.Identity, now time.Time, out []HeaderOption) ([]HeaderOption, error) {
	set := func(name, value string) {
		if name != "" {
			out = append(out, HeaderOption{Name: name, Value: value, Action: OverwriteIfExistsOrAdd})
		}
	}
	set(h.Subject, id.Subject)
	set(h.Roles, joinList(id.Roles))
	set(h.Groups, joinList(id.Groups))
	set(h.Scopes, joinList(id.Scopes))
	set(h.Email, id.Email)
	for _, header := range out {
		if !headerValue(header.Value) {
			return nil, fail(BadCredential, fmt.Errorf("the caller's identity contains characters that header %q cannot carry", header.Name))
		}
	}
	if h.JSON != "" {
		document, err := jsonHeader(id)
		if err != nil {
			return nil, fail(BadCredential, err)
		}
		set(h.JSON, document)
	}
	if h.Token != "" {
		token, err := h.Minter.Mint(id, h.Audience, now)
		switch {
		case errors.Is(err, identity.ErrBadCredential):
			return nil, fail(BadCredential, err)
		case errors.Is(err, identity.ErrUnavailable):
			return nil, fail(Unavailable, err)
		case err != nil:
			return nil, fail(Internal, err)
		}
		set(h.Token, token)
	}
	return out, nil
}

// caller is the document of the JSON header. Lists are always present, so that an application need not check.
type caller struct {
	Subject string   `json:"sub"`
	Issuer  string   `json:"iss,omitempty"`
	Type    string   `json:"type"`
	Roles   []string `json:"roles"`
	Groups  []string `json:"groups"`
	Scopes  []string `json:"scopes"`
	Email   string   `json:"email,omitempty"`
}

// jsonHeader encodes everything about a caller in one value: JSON in base64 with padding (RFC 4648 section 4), the
// default of every language's library. Empty for an anonymous caller.
func jsonHeader(id *identity.Identity) (string, error) {
	if !id.Authenticated {
		return "", nil
	}
	list := func(values []string) []string { return append([]string{}, values...) }
	text, err := json.Marshal(caller{Subject: id.Subject, Issuer: id.Issuer, Type: id.Type, Roles: list(id.Roles), Groups: list(id.Groups),
		Scopes: list(id.Scopes), Email: id.Email})
	if err != nil {
		return "", fmt.Errorf("encoding the caller's identity: %w", err)
	}
	if base64.StdEncoding.EncodedLen(len(text)) > maxIdentityHeader {
		return "", fmt.Errorf("the caller's identity takes more than %d bytes", maxIdentityHeader)
	}
	return base64.StdEncoding.EncodeToString(text), nil
}

// joinList writes a list as one comma-separated header value. A comma or percent sign within a value is percent-encoded,
// so that no role can look like two.
func joinList(values []string) string {
	joined := strings.Join(values, ",")
	if strings.Count(joined, ",") == max(len(values)-1, 0) && !strings.Contains(joined, "%") {
		return joined
	}
	escaped := make([]string, len(values))
	for i, value := range values {
		escaped[i] = strings.NewReplacer("%", "%25", ",", "%2C").Replace(value)
	}
	return strings.Join(escaped, ",")
}

// removeCredential removes everything that could be the end user's credential, whether it was verified or not: also
// from a bypassed request, and from one whose invalid credential dry run lets through. A name that the policy sets
// stays.
//
// A proxy that cannot remove unnamed headers forwards, of the headers its configuration names, those in our answer.
// So headers that must stay are set explicitly.
func (c *call) removeCredential(a *Answer) error {
	places := c.view.settings().Verifier.Places()
	mine := func(name string) bool {
		return slices.ContainsFunc(a.Set, func(s HeaderOption) bool { return strings.EqualFold(s.Name, name) })
	}
	remove := func(name string) {
		if !slices.Contains(a.Remove, name) {
			a.Remove = append(a.Remove, name)
		}
	}
	keep := func(name, value string) {
		a.Set = append(a.Set, HeaderOption{Name: name, Value: value, Action: OverwriteIfExistsOrAdd})
	}
	for _, name := range headersOf(places) {
		values := c.req.Headers.Values(name)
		if len(values) == 0 || mine(name) {
			continue
		}
		ours := func(s identity.TokenSource) bool { return s.Header == name && s.InHeader(values) }
		if slices.ContainsFunc(places, ours) {
			remove(name)
		} else if c.req.FixedHeaders {
			keep(name, values[0])
		}
	}
	if lines := c.req.Headers.Values("cookie"); len(lines) > 0 && !mine("cookie") && slices.ContainsFunc(places, isCookie) {
		switch rest, found := credential.WithoutCookies(lines, places); {
		case rest == "" && found:
			remove("cookie")
		case found, c.req.FixedHeaders:
			keep("cookie", rest)
		}
	}
	if lines := c.req.Headers.Values(protocols); len(lines) > 0 && !mine(protocols) && slices.ContainsFunc(places, isProtocol) {
		switch rest, found := credential.WithoutProtocols(lines, places); {
		case rest == "" && found:
			remove(protocols)
		case found, c.req.FixedHeaders:
			keep(protocols, rest)
		}
	}
	return nil
}

const protocols = "sec-websocket-protocol"

func isProtocol(s identity.TokenSource) bool { return s.WebsocketProtocol != "" }

func isCookie(s identity.TokenSource) bool { return s.Cookie != "" }

// headersOf are the headers among places, without duplicates.
func headersOf(places []identity.TokenSource) []string {
	var out []string
	for _, s := range places {
		if s.Header != "" && !slices.Contains(out, s.Header) {
			out = append(out, s.Header)
		}
	}
	return out
}

// Origin is the source of a caller's roles or groups.
type Origin uint8

// The origins. A caller who is not in the directory has none from there.
const (
	FromToken Origin = iota
	FromDirectory
	FromBoth
)

// PropertyHeader is a header that carries a property of the caller's user in the directory.
type PropertyHeader struct{ Name, Property string }

// parts are the parts of the user that the headers need.
func (h *IdentityHeaders) parts() (parts userParts) {
	if h.RolesFrom != FromToken {
		parts |= userRoles
	}
	if h.GroupsFrom != FromToken {
		parts |= userGroups
	}
	if len(h.Properties) > 0 {
		parts |= userProperties
	}
	return parts
}

// from selects a caller's list by origin.
func (o Origin) from(token, directory []string) []string {
	switch o {
	case FromDirectory:
		return directory
	case FromBoth:
		both := slices.Clone(token)
		for _, name := range directory {
			if !slices.Contains(token, name) {
				both = append(both, name)
			}
		}
		return both
	}
	return token
}

// headerUser looks up the caller in the directory for the headers, and returns the identity to send.
func (c *call) headerUser(h *IdentityHeaders) (*identity.Identity, error) {
	parts := h.parts()
	if parts == 0 {
		return &c.identity, nil
	}
	if err := c.findUser(parts); err != nil {
		return nil, err
	}
	user := c.user
	if user == nil {
		user = &input.User{}
	}
	told := c.identity
	told.Roles, told.Groups = h.RolesFrom.from(told.Roles, user.Roles), h.GroupsFrom.from(told.Groups, user.Groups)
	return &told, nil
}

// propertyHeaders appends the headers with a user's properties. A missing property gives an empty value, and the
// header is removed.
func (h *IdentityHeaders) propertyHeaders(user *input.User, out []HeaderOption) ([]HeaderOption, error) {
	for _, p := range h.Properties {
		value := ""
		if user != nil {
			text, ok := headerText(user.Properties[p.Property])
			if !ok || !headerValue(text) || len(text) > maxIdentityHeader {
				return nil, fail(PolicyError, fmt.Errorf("property %q of user %q cannot be the value of header %q", p.Property, user.ID, p.Name))
			}
			value = text
		}
		out = append(out, HeaderOption{Name: p.Name, Value: value, Action: OverwriteIfExistsOrAdd})
	}
	return out, nil
}

// headerText renders a property as a header value: a string, a number, a boolean, or a list of these. Absent and null
// give "".
func headerText(value any) (text string, ok bool) {
	list, isList := value.([]any)
	if !isList {
		return scalarText(value)
	}
	texts := make([]string, len(list))
	for i, one := range list {
		if texts[i], ok = scalarText(one); !ok {
			return "", false
		}
	}
	return joinList(texts), true
}

func scalarText(value any) (text string, ok bool) {
	switch value := value.(type) {
	case nil:
		return "", true
	case string:
		return value, true
	case json.Number:
		return value.String(), true
	case bool:
		return strconv.FormatBool(value), true
	}
	return "", false
}
