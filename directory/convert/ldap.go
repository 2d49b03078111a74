package convert

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"gatehouse/directory"
)

// LDIFOptions are options of LDIF.
type LDIFOptions struct {
	WithoutEmail bool // mail is no identity
}

// Names are in lower case, like those of parsed entries.
var (
	ldapUsers    = []string{"inetorgperson", "person", "organizationalperson", "user", "posixaccount"}
	ldapGroups   = []string{"groupofnames", "groupofuniquenames", "posixgroup", "group", "groupofmembers"}
	ldapProperty = map[string]string{"department": "department", "departmentnumber": "department_number", "employeetype": "employee_type",
		"employeenumber": "employee_number", "title": "title", "company": "company", "o": "organization", "ou": "organizational_unit", "l": "location",
		"givenname": "first_name", "sn": "last_name", "mail": "email"}
	ldapRead = []string{"objectclass", "uid", "samaccountname", "userprincipalname", "displayname", "cn", "useraccountcontrol", "nsaccountlock",
		"member", "uniquemember", "memberuid", "memberof", "manager", "gidnumber", "primarygroupid"}
)

// person is a user before references are resolved.
type person struct {
	id       string
	line     int
	manager  []value
	memberOf []value
}

// team is a group before references are resolved.
type team struct {
	id   string
	line int
	by   map[string][]value // members, by the attribute that lists them
}

// people is an LDAP server's content before conversion.
type people struct {
	*draft
	file    string
	options LDIFOptions
	persons []person
	teams   []team
	byDN    map[string]directory.Ref // normalised
	implied map[string]directory.Ref // groups known only from memberOf, by normalised DN
	byUID   map[string]string        // for memberUid, which is case-sensitive
}

// LDIF reads entries of an LDAP server or an Active Directory. docs/directory.md describes the conversion.
func LDIF(file string, in io.Reader, o LDIFOptions) (*Result, error) {
	p := people{draft: newDraft(), file: file, options: o, byDN: map[string]directory.Ref{}, implied: map[string]directory.Ref{}, byUID: map[string]string{}}
	p.fold = true
	return p.finish(p.read(in))
}

func (p *people) at(line int) place { return place{p.file, line} }

func (p *people) read(in io.Reader) error {
	r := newLDIFReader(in, func(a string) bool { return slices.Contains(ldapRead, a) || ldapProperty[a] != "" })
	for n := 0; ; n++ {
		e, err := r.next()
		if broken, ok := errors.AsType[*ldifError](err); ok {
			return cmpErr(p.problem(p.at(broken.line), "%s", broken.text), errEnough) // what follows could be misread
		}
		switch {
		case errors.Is(err, io.EOF) && n == 0:
			return p.problem(p.at(1), "empty: there is no entry")
		case errors.Is(err, io.EOF):
			return p.resolve()
		case err != nil:
			return fmt.Errorf("reading %s: %w", p.file, err)
		}
		if err := p.entry(e); err != nil {
			return err
		}
	}
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func (e *entry) first(name string) string {
	if v := e.attrs[name]; len(v) > 0 {
		return strings.TrimSpace(v[0].text)
	}
	return ""
}

func (e *entry) is(classes []string) bool {
	return slices.ContainsFunc(e.attrs["objectclass"], func(v value) bool { return slices.Contains(classes, strings.ToLower(v.text)) })
}

func (p *people) entry(e *entry) error {
	at := p.at(e.line)
	dn, err := normalDN(e.dn)
	if err != nil {
		return p.problem(at, "dn %q: %v", clip(e.dn), err)
	}
	user, group := e.is(ldapUsers), e.is(ldapGroups)
	switch {
	case e.is([]string{"computer"}):
		p.leaveOut(at, e.dn, "accounts of computers")
		return nil
	case user && group:
		return p.problem(at, "%s is a user and a group", clip(e.dn))
	case !user && !group:
		p.leaveOut(at, e.dn, "entries that are neither users nor groups")
		return nil
	}
	ref := directory.Ref{Type: "user", ID: e.first("samaccountname")}
	if ref.ID == "" && user {
		ref.ID = uidOf(e)
	}
	if group {
		ref.Type = "group"
		if ref.ID == "" {
			ref.ID = e.first("cn")
		}
	}
	if ref.ID == "" {
		p.leaveOut(at, e.dn, "entries without an id (uid or sAMAccountName; of groups also cn)")
		return nil
	}
	if before, ok := p.byDN[dn]; ok {
		return p.problem(at, "dn %s is there twice: the first is %s", clip(e.dn), clip(before.String()))
	}
	p.byDN[dn] = ref
	if group {
		return p.group(e, ref)
	}
	return p.user(e, ref)
}

// uidOf is the uid in an entry's DN or, without one there, the first value.
func uidOf(e *entry) string {
	if dn, err := ldap.ParseDN(e.dn); err == nil && len(dn.RDNs) > 0 {
		for _, a := range dn.RDNs[0].Attributes {
			for _, v := range e.attrs["uid"] {
				if strings.EqualFold(a.Type, "uid") && strings.EqualFold(a.Value, v.text) {
					return v.text
				}
			}
		}
	}
	return e.first("uid")
}

func (p *people) user(e *entry, ref directory.Ref) error {
	at := p.at(e.line)
	o := directory.Object{Ref: ref, DisplayName: e.first("displayname")}
	if o.DisplayName == "" {
		o.DisplayName = e.first("cn")
	}
	properties := map[string]any{}
	for attribute, name := range ldapProperty {
		if v := e.first(attribute); v != "" {
			properties[name] = v
		}
	}
	if text := e.first("useraccountcontrol"); text != "" {
		const disabled = 2 // ADS_UF_ACCOUNTDISABLE
		flags, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return p.problem(p.at(e.attrs["useraccountcontrol"][0].line), "userAccountControl %q is not a number", clip(text))
		}
		if flags&disabled != 0 {
			properties["disabled"] = true
		}
	}
	if strings.EqualFold(e.first("nsaccountlock"), "true") {
		properties["disabled"] = true
	}
	var err error
	if o.Properties, err = propertiesOf(properties); err != nil {
		return p.problem(at, "%v", err)
	}
	if err := p.object(o, at); err != nil {
		return err
	}
	names := []value{{ref.ID, e.line}}
	names = append(append(names, e.attrs["uid"]...), e.attrs["userprincipalname"]...)
	if !p.options.WithoutEmail {
		names = append(names, e.attrs["mail"]...)
	}
	for _, v := range names {
		if err := p.identity(ref.ID, strings.TrimSpace(v.text), p.at(v.line)); err != nil {
			return err
		}
	}
	for _, v := range e.attrs["uid"] {
		p.byUID[v.text] = ref.ID // a uid of two users was already reported, as their identity
	}
	if e.first("primarygroupid")+e.first("gidnumber") != "" {
		p.leaveOut(at, e.dn, "memberships in primary groups (gidNumber, primaryGroupID), which no group lists")
	}
	p.persons = append(p.persons, person{ref.ID, e.line, e.attrs["manager"], e.attrs["memberof"]})
	return nil
}

func (p *people) group(e *entry, ref directory.Ref) error {
	t := team{ref.ID, e.line, map[string][]value{}}
	for _, name := range []string{"member", "uniquemember", "memberuid"} {
		t.by[name] = e.attrs[name]
	}
	p.teams = append(p.teams, t)
	o := directory.Object{Ref: ref, DisplayName: e.first("displayname")}
	return p.object(o, p.at(e.line))
}

// resolve makes the relations, after all entries are read.
func (p *people) resolve() error {
	for _, t := range p.teams {
		if err := p.members(t); err != nil {
			return err
		}
	}
	for _, u := range p.persons {
		for _, v := range u.manager {
			boss, ok, err := p.named(v)
			if err != nil {
				return err
			}
			if !ok || boss.Type != "user" {
				p.leaveOut(p.at(v.line), v.text, "managers who are not users of the file")
			} else if err := p.relate(directory.Ref{Type: "user", ID: u.id}, "manager", boss, "", p.at(v.line)); err != nil {
				return err
			}
		}
		for _, v := range u.memberOf {
			if err := p.memberOf(u, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// named is the object that a value refers to.
func (p *people) named(v value) (directory.Ref, bool, error) {
	dn, err := normalDN(v.text)
	if err != nil {
		return directory.Ref{}, false, p.problem(p.at(v.line), "%q is not a distinguished name: %v", clip(v.text), err)
	}
	ref, ok := p.byDN[dn]
	return ref, ok, nil
}

func (p *people) members(t team) error {
	group := directory.Ref{Type: "group", ID: t.id}
	for _, v := range slices.Concat(t.by["member"], t.by["uniquemember"]) {
		member, ok, err := p.named(v)
		if err != nil {
			return err
		}
		if !ok {
			p.leaveOut(p.at(v.line), v.text, "members of groups that are not in the file, or not taken from it")
			continue
		}
		through := ""
		if member.Type == "group" {
			through = "member"
		}
		if err := p.relate(group, "member", member, through, p.at(v.line)); err != nil {
			return err
		}
	}
	for _, v := range t.by["memberuid"] {
		id, ok := p.byUID[v.text]
		if !ok {
			p.leaveOut(p.at(v.line), v.text, "members of groups that are not in the file, or not taken from it")
			continue
		}
		if err := p.relate(group, "member", directory.Ref{Type: "user", ID: id}, "", p.at(v.line)); err != nil {
			return err
		}
	}
	return nil
}

// memberOf adds a user to a group that is not in the file. For a group in the file, only its own member list counts.
func (p *people) memberOf(u person, v value) error {
	at := p.at(v.line)
	dn, err := normalDN(v.text)
	if err != nil {
		return p.problem(at, "memberOf %q is not a distinguished name: %v", clip(v.text), err)
	}
	if _, listed := p.byDN[dn]; listed {
		return nil
	}
	ref, ok := p.implied[dn]
	if !ok {
		parsed, err := ldap.ParseDN(v.text)
		if err != nil || len(parsed.RDNs) == 0 {
			return p.problem(at, "memberOf %q names no group", clip(v.text))
		}
		ref = directory.Ref{Type: "group", ID: parsed.RDNs[0].Attributes[0].Value}
		p.implied[dn] = ref
		if err := p.object(directory.Object{Ref: ref}, at); err != nil {
			return err
		}
	}
	return p.relate(ref, "member", directory.Ref{Type: "user", ID: u.id}, "", at)
}

// normalDN normalises a distinguished name, so that equal ones in LDAP compare equal: case, spaces and escapes.
func normalDN(text string) (string, error) {
	const most = 8 << 10
	if !utf8.ValidString(text) {
		return "", errors.New("not valid UTF-8")
	}
	if len(text) > most {
		return "", fmt.Errorf("longer than %d bytes", most)
	}
	dn, err := ldap.ParseDN(text)
	if err != nil {
		return "", err
	}
	for _, rdn := range dn.RDNs {
		for _, a := range rdn.Attributes {
			if !utf8.ValidString(a.Value) {
				return "", errors.New("not valid UTF-8")
			}
			a.Value = strings.ToLower(strings.Join(strings.Fields(a.Value), " "))
		}
	}
	return dn.String(), nil
}
