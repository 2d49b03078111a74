package scim

import (
	"slices"
	"strings"
)

// The URNs of RFC 7643 and RFC 7644.
const (
	urnUser       = "urn:ietf:params:scim:schemas:core:2.0:User"
	urnGroup      = "urn:ietf:params:scim:schemas:core:2.0:Group"
	urnEnterprise = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
	urnList       = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
	urnPatch      = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
	urnBulk       = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
	urnBulked     = "urn:ietf:params:scim:api:messages:2.0:BulkResponse"
	urnSearch     = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"
	urnError      = "urn:ietf:params:scim:api:messages:2.0:Error"
)

// attribute is an attribute of RFC 7643, section 7.
type attribute struct {
	name, typ, about           string
	multi, required, caseExact bool
	readOnly, immutable        bool
	unique                     bool
	canonical, refs            []string
	sub                        []*attribute
}

func (a *attribute) find(name string) *attribute { return find(a.sub, name) }

func find(list []*attribute, name string) *attribute {
	for _, a := range list {
		if strings.EqualFold(a.name, name) {
			return a
		}
	}
	return nil
}

// schema is one with its attributes.
type schema struct {
	urn, name, about string
	attributes       []*attribute
}

// kind is a resource type.
type kind struct {
	name, endpoint string // User, Users
	core           *schema
	extensions     []*schema
	all            []*attribute // of the core schema, with those that every resource has
}

// extension finds a schema of the kind by its URN; nil: there is none.
func (k *kind) extension(urn string) *schema {
	for _, s := range k.extensions {
		if strings.EqualFold(s.urn, urn) {
			return s
		}
	}
	return nil
}

func text(name, about string) *attribute { return &attribute{name: name, typ: "string", about: about} }

func complexOf(name, about string, sub ...*attribute) *attribute {
	return &attribute{name: name, typ: "complex", about: about, sub: sub}
}

// list is a multi-valued attribute with the sub-attributes of RFC 7643, section 2.4.
func list(name, about, valueType string, types ...string) *attribute {
	value := &attribute{name: "value", typ: valueType, about: "The value itself."}
	if valueType == "reference" {
		value.refs = []string{"external"}
	}
	kinds := text("type", "What it is for.")
	kinds.canonical = types
	a := complexOf(name, about, value, text("display", "A name for people."), kinds, &attribute{name: "primary", typ: "boolean", about: "Whether it is the preferred one."})
	a.multi = true
	return a
}

func reference(name, about string, to ...string) *attribute {
	return &attribute{name: name, typ: "reference", about: about, refs: to}
}

func with(a *attribute, change func(*attribute)) *attribute { change(a); return a }

func readOnly(a *attribute)  { a.readOnly = true }
func immutable(a *attribute) { a.immutable = true }

var userSchema = &schema{urnUser, "User", "A user account.", []*attribute{
	with(text("userName", "The name with which the user logs in. It is unique without regard to case."), func(a *attribute) { a.required, a.unique = true, true }),
	complexOf("name", "The parts of the user's name.", text("formatted", "The whole name."), text("familyName", "The family name."), text("givenName", "The given name."),
		text("middleName", "The middle names."), text("honorificPrefix", "Titles before the name."), text("honorificSuffix", "Suffixes after the name.")),
	text("displayName", "The name that is shown."), text("nickName", "How the user is called."), reference("profileUrl", "The user's page.", "external"),
	text("title", "The title in the organisation."), text("userType", "The relation to the organisation."), text("preferredLanguage", "The preferred languages."),
	text("locale", "The locale."), text("timezone", "The time zone."),
	{name: "active", typ: "boolean", about: "Whether the user may use anything. One who may not is refused by every edge."},
	list("emails", "E-mail addresses.", "string", "work", "home", "other"), list("phoneNumbers", "Phone numbers.", "string", "work", "home", "mobile", "fax", "pager", "other"),
	list("ims", "Instant messaging addresses.", "string"), list("photos", "Pictures.", "reference", "photo", "thumbnail"),
	with(complexOf("addresses", "Postal addresses.", text("formatted", "The whole address."), text("streetAddress", "Street and number."), text("locality", "The town."),
		text("region", "The region."), text("postalCode", "The postal code."), text("country", "The country."), with(text("type", "What it is for."), func(a *attribute) { a.canonical = []string{"work", "home", "other"} }),
		&attribute{name: "primary", typ: "boolean", about: "Whether it is the preferred one."}), func(a *attribute) { a.multi = true }),
	with(complexOf("groups", "The groups in which the user is. They are changed in the groups.", with(text("value", "The group's id."), readOnly), with(reference("$ref", "The group.", "Group"), readOnly),
		with(text("display", "The group's name."), readOnly), with(text("type", "direct."), func(a *attribute) { a.readOnly, a.canonical = true, []string{"direct", "indirect"} })), func(a *attribute) { a.multi, a.readOnly = true, true }),
	list("entitlements", "Entitlements.", "string"), list("roles", "Roles in the provider's words.", "string"), list("x509Certificates", "Certificates.", "binary"),
}}

var enterpriseSchema = &schema{urnEnterprise, "EnterpriseUser", "What companies add to a user.", []*attribute{
	text("employeeNumber", "The number that the company gave."), text("costCenter", "The cost centre."), text("organization", "The organisation."), text("division", "The division."),
	text("department", "The department."),
	complexOf("manager", "The manager.", text("value", "The id of the manager's user."), reference("$ref", "The manager's user.", "User"), with(text("displayName", "The manager's name."), readOnly)),
}}

var groupSchema = &schema{urnGroup, "Group", "A group of users and groups.", []*attribute{
	with(text("displayName", "The group's name. The group of the directory has the one that it was made with as its id."), func(a *attribute) { a.required, a.unique = true, true }),
	with(complexOf("members", "The members.", with(text("value", "The member's id."), immutable), with(reference("$ref", "The member.", "User", "Group"), immutable),
		with(text("type", "User or Group."), func(a *attribute) { a.immutable, a.canonical = true, []string{"User", "Group"} })), func(a *attribute) { a.multi = true }),
}}

// common are the attributes that every resource has.
var common = []*attribute{
	{name: "id", typ: "string", caseExact: true, readOnly: true},
	{name: "externalId", typ: "string", caseExact: true},
	{name: "schemas", typ: "reference", caseExact: true, multi: true, readOnly: true},
	{name: "meta", typ: "complex", readOnly: true, sub: []*attribute{{name: "resourceType", typ: "string", caseExact: true, readOnly: true}, {name: "created", typ: "dateTime", readOnly: true},
		{name: "lastModified", typ: "dateTime", readOnly: true}, {name: "location", typ: "reference", caseExact: true, readOnly: true}, {name: "version", typ: "string", caseExact: true, readOnly: true}}},
}

var (
	users  = &kind{"User", "Users", userSchema, []*schema{enterpriseSchema}, slices.Concat(common, userSchema.attributes)}
	groups = &kind{"Group", "Groups", groupSchema, nil, slices.Concat(common, groupSchema.attributes)}
	kinds  = []*kind{users, groups}
)

// describe is the attribute as /Schemas has it.
func (a *attribute) describe() map[string]any {
	mutability := "readWrite"
	switch {
	case a.readOnly:
		mutability = "readOnly"
	case a.immutable:
		mutability = "immutable"
	}
	uniqueness := "none"
	if a.unique {
		uniqueness = "server"
	}
	out := map[string]any{"name": a.name, "type": a.typ, "multiValued": a.multi, "description": a.about, "required": a.required, "mutability": mutability, "returned": "default"}
	if a.typ != "complex" && a.typ != "boolean" {
		out["caseExact"] = a.caseExact || a.typ == "reference" || a.typ == "binary"
		out["uniqueness"] = uniqueness
	}
	if len(a.canonical) > 0 {
		out["canonicalValues"] = a.canonical
	}
	if len(a.refs) > 0 {
		out["referenceTypes"] = a.refs
	}
	if a.sub != nil {
		out["subAttributes"] = describeAll(a.sub)
	}
	return out
}

func describeAll(list []*attribute) []any {
	out := make([]any, len(list))
	for i, a := range list {
		out[i] = a.describe()
	}
	return out
}
