package gate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"gatehouse/identity"
	"gatehouse/input"
)

// Origin is where something about a caller comes from.
type Origin uint8

// The origins. A caller who is not in the directory has nothing of it.
const (
	FromToken Origin = iota
	FromDirectory
	FromBoth
)

// PropertyHeader is a header that carries a property of the caller's user in the directory.
type PropertyHeader struct{ Name, Property string }

// parts are what the headers tell of the caller's user in the directory.
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

// from is a list of the caller's as the application is told it.
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

// headerUser finds the caller in the directory for the headers, and makes the identity that these tell of him.
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

// propertyHeaders appends the headers with properties of a user. One that he has not is empty, and is removed.
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

// headerText is a property as a header carries it: a string, a number, a truth, or a list of these. Absent and null are "".
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
