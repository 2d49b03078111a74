package scim

import (
	"encoding/json"
	"strings"

	"gatehouse/control/store"
)

// derive is what of a resource is in the directory. Of a user it is what policies ask about: not his phones, addresses,
// pictures and certificates, which would be on the disk of every edge for nothing.
func (k *kind) derive(doc map[string]any) (d store.ScimDerived) {
	d.DisplayName = cut(str(doc["displayName"]))
	if k == groups {
		return d
	}
	name, _ := doc["name"].(map[string]any)
	enterprise, _ := doc[urnEnterprise].(map[string]any)
	for _, one := range []string{str(name["formatted"]), strings.TrimSpace(str(name["givenName"]) + " " + str(name["familyName"])), str(doc["userName"])} {
		if d.DisplayName == "" {
			d.DisplayName = cut(one)
		}
	}
	part := map[string]any{}
	put := func(name string, v any) {
		if s := str(v); s != "" {
			part[name] = s
		}
	}
	put("user_name", doc["userName"])
	put("external_id", doc["externalId"])
	put("first_name", name["givenName"])
	put("last_name", name["familyName"])
	for from, to := range map[string]string{"title": "title", "userType": "user_type", "preferredLanguage": "preferred_language", "locale": "locale", "timezone": "timezone"} {
		put(to, doc[from])
	}
	for from, to := range map[string]string{"employeeNumber": "employee_number", "costCenter": "cost_center", "organization": "organization", "division": "division", "department": "department"} {
		put(to, enterprise[from])
	}
	manager, _ := enterprise["manager"].(map[string]any)
	put("manager", manager["value"])
	emails, first := valuesOf(doc["emails"])
	put("email", first)
	for _, name := range []string{"roles", "entitlements"} {
		if list, _ := valuesOf(doc[name]); len(list) > 0 {
			part[name] = list
		}
	}
	if isInactive(doc) {
		part["disabled"] = true
	}
	d.Properties, _ = json.Marshal(part) // texts
	d.Names = append(emails, str(doc["externalId"]))
	return d
}

func str(v any) string { s, _ := v.(string); return s }

// cut is a display name as the directory can keep it.
func cut(s string) string {
	const most = 4 << 10
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// valuesOf are the values of a multi-valued attribute, and the primary one, or the first.
func valuesOf(v any) (all []string, first string) {
	list, _ := v.([]any)
	for _, one := range list {
		object, _ := one.(map[string]any)
		value := str(object["value"])
		if value == "" {
			continue
		}
		if first == "" || object["primary"] == true {
			first = value
		}
		all = append(all, value)
	}
	return all, first
}
