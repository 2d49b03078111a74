package convert

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse/directory"
)

// KeycloakOptions select a realm and its data.
type KeycloakOptions struct {
	Realm        string // required where there are several
	WithoutEmail bool   // e-mail addresses become no identities
}

// File is an open file.
type File struct {
	Name string
	Text []byte
}

// MaxKeycloak is the maximum size of a realm's file. Keycloak splits many users over several files.
const MaxKeycloak = 1 << 30

// realm is one realm's data from the files.
type realm struct {
	name   string
	users  []kcUser
	groups []kcGroup
	roles  []kcRole
}

type kcUser struct {
	at                                                  place
	id, name, email, first, last, serviceAccount        string
	enabled, verified, hasCredentials, hasOtherIdentity bool
	attributes                                          map[string][]string
	realmRoles, groups                                  []string
	clientRoles                                         map[string][]string
}

type kcGroup struct {
	at          place
	name, path  string
	attributes  map[string][]string
	realmRoles  []string
	clientRoles map[string][]string
	below       []kcGroup
}

type kcRole struct {
	at           place
	id           string // in the directory
	client       bool   // of a client
	realmParts   []string
	clientsParts map[string][]string
}

// Keycloak reads realms in Keycloak's export format: one realm, or the files of one. docs/directory.md describes the
// conversion.
func Keycloak(files []File, o KeycloakOptions) (*Result, error) {
	d := newDraft()
	var realms []*realm
	for _, f := range files {
		found, err := readRealms(d, f)
		if err != nil {
			return d.finish(err)
		}
		realms = append(realms, found...)
	}
	if len(d.problems.List) > 0 {
		return nil, &d.problems
	}
	one, err := chosen(realms, o.Realm)
	if err != nil {
		return nil, err
	}
	c := conversion{d, o, map[string]bool{}, map[string]bool{}}
	return d.finish(c.realm(one))
}

// chosen merges the files of one realm.
func chosen(realms []*realm, name string) (*realm, error) {
	var names []string
	for _, r := range realms {
		if !slices.Contains(names, r.name) {
			names = append(names, r.name)
		}
	}
	if name == "" && len(names) > 1 {
		return nil, fmt.Errorf("there are the realms %s\nname one with --realm: users of two realms are different people", clip(strings.Join(names, ", ")))
	}
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	out := &realm{name: name}
	for _, r := range realms {
		if r.name == name {
			out.users, out.groups, out.roles = append(out.users, r.users...), append(out.groups, r.groups...), append(out.roles, r.roles...)
		}
	}
	if !slices.Contains(names, name) {
		return nil, fmt.Errorf("there is no realm %q; there is %s", name, clip(strings.Join(names, ", ")))
	}
	return out, nil
}

type conversion struct {
	*draft
	options KeycloakOptions
	groups  map[string]bool // by path
	client  map[string]bool // a role's id -> whether it belongs to a client
}

func (c *conversion) realm(r *realm) error {
	for _, role := range r.roles {
		c.client[role.id] = role.client
		if err := c.object(directory.Object{Ref: directory.Ref{Type: "role", ID: role.id}}, role.at); err != nil {
			return err
		}
	}
	for _, role := range r.roles { // composite roles: the role's holders have its parts
		if err := c.grant(role.realmParts, role.clientsParts, directory.Ref{Type: "role", ID: role.id}, "member", role.at); err != nil {
			return err
		}
	}
	for _, g := range r.groups {
		if err := c.group(g, nil); err != nil {
			return err
		}
	}
	for _, u := range r.users {
		if err := c.user(u); err != nil {
			return err
		}
	}
	return nil
}

// grant gives roles to a subject.
func (c *conversion) grant(realmRoles []string, clientRoles map[string][]string, subject directory.Ref, through string, at place) error {
	give := func(id string, client bool) error {
		if was, ok := c.client[id]; ok && was != client {
			return c.problem(at, "role %s is one of the realm and one of a client; rename one", clip(id))
		}
		c.client[id] = client
		ref := directory.Ref{Type: "role", ID: id}
		return errors.Join(c.ensure(ref, at), c.relate(ref, "member", subject, through, at))
	}
	for _, name := range realmRoles {
		if err := give(name, false); err != nil {
			return err
		}
	}
	for client, names := range clientRoles {
		for _, name := range names {
			if err := give(clientRole(client, name), true); err != nil {
				return err
			}
		}
	}
	return nil
}

// clientRole is the id of a client's role. The first colon separates, so colons in the client's name are escaped.
func clientRole(client, role string) string {
	return strings.NewReplacer("%", "%25", ":", "%3A").Replace(client) + ":" + role
}

// group adds a group and its subgroups. As in Keycloak, members of a subgroup are not members of the group, but have
// its roles.
func (c *conversion) group(g kcGroup, above []kcGroup) error {
	ref := directory.Ref{Type: "group", ID: g.path}
	c.groups[g.path] = true
	o := directory.Object{Ref: ref, DisplayName: g.name}
	if err := c.properties(&o, g.attributes, map[string]any{}, g.at); err != nil {
		return err
	}
	if err := c.object(o, g.at); err != nil {
		return err
	}
	chain := append(slices.Clone(above), g)
	for _, from := range chain {
		if err := c.grant(from.realmRoles, from.clientRoles, ref, "member", g.at); err != nil {
			return err
		}
	}
	for _, below := range g.below {
		if err := c.group(below, chain); err != nil {
			return err
		}
	}
	return nil
}

func (c *conversion) user(u kcUser) error {
	if u.name == "" {
		return c.problem(u.at, "a user without a username")
	}
	ref := directory.Ref{Type: "user", ID: u.name}
	o := directory.Object{Ref: ref, DisplayName: strings.TrimSpace(u.first + " " + u.last)}
	own := map[string]any{}
	for name, value := range map[string]string{"email": u.email, "first_name": u.first, "last_name": u.last, "service_account": u.serviceAccount} {
		if value != "" {
			own[name] = value
		}
	}
	if !u.enabled {
		own["disabled"] = true
	}
	if u.hasCredentials {
		c.leaveOut(u.at, u.name, "passwords and other credentials")
	}
	if u.hasOtherIdentity {
		c.leaveOut(u.at, u.name, "accounts at other identity providers")
	}
	if err := c.properties(&o, u.attributes, own, u.at); err != nil {
		return err
	}
	if err := c.object(o, u.at); err != nil {
		return err
	}
	names := []string{u.name, u.id}
	switch {
	case u.email == "" || c.options.WithoutEmail:
	case u.verified:
		names = append(names, u.email)
	default:
		c.leaveOut(u.at, u.name, "e-mail addresses that are not verified, as identities")
	}
	for _, name := range names {
		if err := c.identity(u.name, name, u.at); err != nil {
			return err
		}
	}
	for _, path := range u.groups {
		if !c.groups[path] {
			if err := c.problem(u.at, "group %q of user %s is not among the realm's groups; give the realm's own file as well", clip(path), clip(u.name)); err != nil {
				return err
			}
		} else if err := c.relate(directory.Ref{Type: "group", ID: path}, "member", ref, "", u.at); err != nil {
			return err
		}
	}
	return c.grant(u.realmRoles, u.clientRoles, ref, "", u.at)
}

// properties adds attributes to the converter's own properties. Users may edit attributes, so these never replace own
// ones.
func (c *conversion) properties(o *directory.Object, attributes map[string][]string, own map[string]any, at place) error {
	for name, values := range attributes {
		switch {
		case isSecret(name):
			c.leaveOut(at, name, "attributes with the name of a secret")
		case slices.Contains([]string{"disabled", "email", "first_name", "last_name", "service_account"}, name):
			c.leaveOut(at, name, "attributes with the name of a property that the export itself gives")
		case len(values) == 1:
			own[name] = values[0]
		case len(values) > 1:
			own[name] = values
		}
	}
	p, err := propertiesOf(own)
	if err != nil {
		return c.problem(at, "%v", err)
	}
	o.Properties = p
	return nil
}
