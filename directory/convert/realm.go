package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const maxGroupDepth = 64

// realmReader reads a file of realms. Names are case-sensitive, and duplicate names are a problem.
type realmReader struct {
	*draft
	file    File
	json    *json.Decoder
	counted int64 // bytes counted so far for line numbers
	line    int
}

func readRealms(d *draft, f File) ([]*realm, error) {
	r := &realmReader{draft: d, file: f, json: json.NewDecoder(bytes.NewReader(f.Text)), line: 1}
	if len(f.Text) > MaxKeycloak {
		return nil, fmt.Errorf("%s: more than %d bytes; export users in files of their own", f.Name, MaxKeycloak)
	}
	if !utf8.Valid(f.Text) {
		return nil, r.problem(place{f.Name, 0}, "not valid UTF-8; save the file as UTF-8")
	}
	if begin := bytes.TrimLeft(f.Text, " \t\r\n"); len(begin) > 0 && begin[0] != '{' && begin[0] != '[' {
		return nil, r.problem(place{f.Name, 1}, "not a realm as JSON, which begins with { or [; kc.sh export writes one")
	}
	realms, err := r.realms()
	if err == nil {
		if _, end := r.json.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("there is something behind the realm")
		}
	}
	if err == nil || errors.Is(err, errEnough) {
		return realms, err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the JSON ends before it is complete")
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && syntax.Offset > r.counted { // otherwise the offset is relative to a part
		r.to(min(syntax.Offset, int64(len(f.Text))))
	}
	return nil, r.problem(r.here(), "%v", err)
}

// here is the current position.
func (r *realmReader) here() place {
	r.to(r.json.InputOffset())
	return place{r.file.Name, r.line}
}

// to advances the line count to the first character after an offset.
func (r *realmReader) to(offset int64) {
	for offset < int64(len(r.file.Text)) && bytes.IndexByte([]byte(" \t\r\n,:"), r.file.Text[offset]) >= 0 {
		offset++
	}
	if offset > r.counted {
		r.line += bytes.Count(r.file.Text[r.counted:offset], []byte{'\n'})
		r.counted = offset
	}
}

func (r *realmReader) realms() ([]*realm, error) {
	t, err := r.json.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		one, err := r.realm()
		return []*realm{one}, err
	case json.Delim('['):
		var all []*realm
		for r.json.More() {
			if t, err := r.json.Token(); err != nil {
				return nil, err
			} else if t != json.Delim('{') {
				return nil, errors.New("not a realm: an object with realm, users, groups and roles")
			}
			one, err := r.realm()
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
		_, err := r.json.Token()
		return all, err
	}
	return nil, errors.New("not a realm: an object with realm, users, groups and roles")
}

// realm reads a realm after its opening brace.
func (r *realmReader) realm() (*realm, error) {
	out := &realm{}
	seen := map[string]bool{}
	for r.json.More() {
		t, err := r.json.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if seen[name] {
			return nil, fmt.Errorf("%q is there twice", clip(name))
		}
		seen[name] = true
		switch name {
		case "realm":
			err = r.json.Decode(&out.name)
		case "users":
			err = r.each(func(raw json.RawMessage, at place) error {
				u, err := parseUser(raw, at)
				out.users = append(out.users, u)
				return err
			})
		case "groups":
			err = r.each(func(raw json.RawMessage, at place) error {
				g, err := parseGroup(raw, "", at, 0)
				out.groups = append(out.groups, g)
				return err
			})
		case "roles":
			var raw json.RawMessage
			at := r.here()
			if err = r.json.Decode(&raw); err == nil {
				out.roles, err = parseRoles(raw, at)
			}
		case "federatedUsers":
			err = r.each(func(_ json.RawMessage, at place) error {
				r.leaveOut(at, "", "what is kept of users of federations (federatedUsers)")
				return nil
			})
		default:
			err = r.json.Decode(new(json.RawMessage))
		}
		if err != nil {
			return nil, err
		}
	}
	if _, err := r.json.Token(); err != nil {
		return nil, err
	}
	if out.name == "" {
		return nil, errors.New(`a realm without a name ("realm")`)
	}
	return out, nil
}

// each reads an array, or null.
func (r *realmReader) each(do func(raw json.RawMessage, at place) error) error {
	t, err := r.json.Token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return errors.New("not an array")
	}
	for r.json.More() {
		at := r.here()
		var raw json.RawMessage
		if err := r.json.Decode(&raw); err != nil {
			return err
		}
		if err := do(raw, at); err != nil {
			return err
		}
	}
	_, err = r.json.Token()
	return err
}

// fields calls do for each field of an object. null is an empty object.
func fields(raw json.RawMessage, do func(name string, value json.RawMessage) error) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	t, err := d.Token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('{') {
		return errors.New("not an object")
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if seen[name] {
			return fmt.Errorf("%q is there twice", clip(name))
		}
		seen[name] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		if err := do(name, value); err != nil {
			return fmt.Errorf("%s: %w", clip(name), err)
		}
	}
	return nil
}

// lists reads an object of string lists.
func lists(raw json.RawMessage) (map[string][]string, error) {
	out := map[string][]string{}
	return out, fields(raw, func(name string, value json.RawMessage) error {
		var list []string
		if len(value) > 0 && value[0] == '"' { // old exports have single strings as attributes
			list = make([]string, 1)
			out[name] = list
			return json.Unmarshal(value, &list[0])
		}
		err := json.Unmarshal(value, &list)
		out[name] = list
		return err
	})
}

func parseUser(raw json.RawMessage, at place) (u kcUser, err error) {
	u.at, u.enabled = at, false // Keycloak's default
	err = fields(raw, func(name string, value json.RawMessage) (err error) {
		switch name {
		case "id":
			err = json.Unmarshal(value, &u.id)
		case "username":
			err = json.Unmarshal(value, &u.name)
		case "email":
			err = json.Unmarshal(value, &u.email)
		case "firstName":
			err = json.Unmarshal(value, &u.first)
		case "lastName":
			err = json.Unmarshal(value, &u.last)
		case "serviceAccountClientId":
			err = json.Unmarshal(value, &u.serviceAccount)
		case "enabled":
			err = json.Unmarshal(value, &u.enabled)
		case "emailVerified":
			err = json.Unmarshal(value, &u.verified)
		case "attributes":
			u.attributes, err = lists(value)
		case "realmRoles":
			err = json.Unmarshal(value, &u.realmRoles)
		case "groups":
			err = json.Unmarshal(value, &u.groups)
		case "clientRoles":
			u.clientRoles, err = lists(value)
		case "credentials":
			u.hasCredentials = len(value) > 2 && string(value) != "null"
		case "federatedIdentities":
			u.hasOtherIdentity = len(value) > 2 && string(value) != "null"
		}
		return err
	})
	return u, err
}

func parseGroup(raw json.RawMessage, above string, at place, depth int) (g kcGroup, err error) {
	if depth > maxGroupDepth {
		return g, fmt.Errorf("groups more than %d deep", maxGroupDepth)
	}
	g.at = at
	var below []json.RawMessage
	err = fields(raw, func(name string, value json.RawMessage) (err error) {
		switch name {
		case "name":
			err = json.Unmarshal(value, &g.name)
		case "path":
			err = json.Unmarshal(value, &g.path)
		case "attributes":
			g.attributes, err = lists(value)
		case "realmRoles":
			err = json.Unmarshal(value, &g.realmRoles)
		case "clientRoles":
			g.clientRoles, err = lists(value)
		case "subGroups":
			err = json.Unmarshal(value, &below)
		}
		return err
	})
	if err != nil {
		return g, err
	}
	if g.path == "" {
		g.path = above + "/" + g.name
	}
	if g.name == "" || !strings.HasPrefix(g.path, above+"/") {
		return g, fmt.Errorf("group %q with path %q below %q: a group has a name, and a path below that of its parent", clip(g.name), clip(g.path), clip(above))
	}
	for _, one := range below {
		sub, err := parseGroup(one, g.path, at, depth+1)
		if err != nil {
			return g, err
		}
		g.below = append(g.below, sub)
	}
	return g, nil
}

// parseRoles reads {"realm": [...], "client": {"app": [...]}}.
func parseRoles(raw json.RawMessage, at place) ([]kcRole, error) {
	var out []kcRole
	add := func(raw json.RawMessage, client bool, id func(name string) string) error {
		var all []json.RawMessage
		if err := json.Unmarshal(raw, &all); err != nil {
			return err
		}
		for _, one := range all {
			role, err := parseRole(one, id)
			if err != nil {
				return err
			}
			role.at, role.client = at, client
			out = append(out, role)
		}
		return nil
	}
	err := fields(raw, func(name string, value json.RawMessage) error {
		switch name {
		case "realm":
			return add(value, false, func(name string) string { return name })
		case "client":
			return fields(value, func(client string, value json.RawMessage) error {
				return add(value, true, func(name string) string { return clientRole(client, name) })
			})
		}
		return nil
	})
	return out, err
}

func parseRole(raw json.RawMessage, id func(string) string) (r kcRole, err error) {
	err = fields(raw, func(name string, value json.RawMessage) (err error) {
		switch name {
		case "name":
			var text string
			err = json.Unmarshal(value, &text)
			if r.id = id(text); err == nil && text == "" {
				err = errors.New("a role without a name")
			}
		case "composites":
			err = fields(value, func(name string, value json.RawMessage) (err error) {
				switch name {
				case "realm":
					err = json.Unmarshal(value, &r.realmParts)
				case "client":
					r.clientsParts, err = lists(value)
				}
				return err
			})
		}
		return err
	})
	if err == nil && r.id == "" {
		err = errors.New("a role without a name")
	}
	return r, err
}
