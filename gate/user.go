package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"gatehouse/directory"
	"gatehouse/identity"
	"gatehouse/input"
	"gatehouse/policy/reach"
)

// Users configures how a caller is found in the directory.
type Users struct {
	Email       bool     // look up by the credential's e-mail address, not its subject
	Claim       string   // look up by this claim, not the subject
	ByID        bool     // the name is the id of an object of type user, not an identity
	Issuers     []string // whose credentials belong to users; empty: all
	DenyUnknown bool     // deny authenticated callers that are not in the directory, before the policy is evaluated

	AllowDisabled bool // do not deny users that are disabled in the directory
}

// userParts are the parts of a user that need extra queries.
type userParts uint8

const (
	userRoles userParts = 1 << iota
	userGroups
	userProperties
)

// memberRelation is a user's relation to groups and roles.
const memberRelation = "member"

// errNoDirectory: the View has no directory, because it was not loaded yet or is too old.
var errNoDirectory = errors.New("the directory is not loaded")

// name is the value of a credential by which the user is looked up; "" where there is none.
func (u *Users) name(id *identity.Identity) string {
	switch {
	case !id.Authenticated, len(u.Issuers) > 0 && !slices.Contains(u.Issuers, id.Issuer):
		return ""
	case u.Claim != "":
		name, _ := id.Claims[u.Claim].(string)
		return name
	case u.Email:
		return id.Email
	}
	return id.Subject
}

// admit denies callers that are disabled in the directory, unless AllowDisabled is set, and those that are not in it, where
// DenyUnknown is. It is asked before the memo: what is remembered of a caller counts only while he is admitted.
func (c *call) admit() error {
	u := c.view.Settings.Users
	if u == nil || u.AllowDisabled && !u.DenyUnknown || !c.identity.Authenticated {
		return nil
	}
	if !u.DenyUnknown && !c.userFound && c.req.User == nil { // all who are not disabled: nothing of the user is needed yet
		name := u.name(&c.identity)
		if name == "" {
			return nil
		}
		is, err := c.view.Directory.Disabled(u.ByID, name, c.started)
		if err != nil {
			return c.notFound(err)
		}
		if !is {
			return nil
		}
	}
	if err := c.findUser(0); err != nil {
		return err
	}
	switch {
	case c.user == nil && u.DenyUnknown:
		return fail(UnknownUser, errors.New("the caller is not in the directory, and directory.unknown_user is deny"))
	case c.user != nil && c.userDisabled && !u.AllowDisabled:
		return fail(DisabledUser, fmt.Errorf("user:%s is disabled in the directory", c.user.ID))
	}
	return nil
}

// notFound is the denial where looking up the caller failed.
func (c *call) notFound(err error) error {
	c.view.failed.Note(err)
	return fail(Unavailable, fmt.Errorf("finding the caller in the directory: %w", err))
}

// readUser looks up the caller where the rule reads the user, with the parts that it reads.
func (c *call) readUser(r *rule) error {
	if c.view.Settings.Users == nil && c.req.User == nil {
		return nil
	}
	parts, wanted := userRead(r.entry.Reads())
	if !wanted {
		return nil
	}
	return c.findUser(parts)
}

// userRead is which parts of the user are read; wanted is whether any of the user is.
func userRead(all reach.Reads) (parts userParts, wanted bool) {
	reads, wanted := all.Member("user")
	if !wanted {
		return 0, false
	}
	for i, name := range [...]string{"roles", "groups", "properties"} {
		if reads.Has(name) {
			parts |= 1 << i
		}
	}
	return parts, true
}

// findUser looks up the caller, with these parts and those loaded before. A caller that is not found is no user; a
// failed query is a denial.
func (c *call) findUser(parts userParts) error {
	u := c.view.Settings.Users
	if c.userFound && c.userParts&parts == parts {
		return nil
	}
	parts |= c.userParts
	var err error
	switch name := ""; {
	case c.req.User != nil:
		c.user, err = c.recordedUser(parts)
	case u == nil:
	default:
		if name = u.name(&c.identity); name != "" {
			c.user, c.userDisabled, err = c.view.users.find(c.view.Directory, u.ByID, name, parts, c.started)
		}
	}
	if err != nil {
		return c.notFound(err)
	}
	c.userFound, c.userParts = true, parts
	return nil
}

// recordedUser is the recorded user; parts that were not recorded come from the current directory.
func (c *call) recordedUser(parts userParts) (*input.User, error) {
	recorded := c.req.User
	if recorded.Roles != nil {
		parts &^= userRoles
	}
	if recorded.Groups != nil {
		parts &^= userGroups
	}
	if recorded.Properties != nil {
		parts &^= userProperties
	}
	if parts == 0 || c.view.Directory == nil {
		return recorded, nil
	}
	today, _, err := lookUp(c.view.Directory, true, recorded.ID, parts, c.started)
	if today == nil || err != nil {
		return recorded, err
	}
	merged := *recorded
	if merged.Roles == nil {
		merged.Roles = today.Roles
	}
	if merged.Groups == nil {
		merged.Groups = today.Groups
	}
	if merged.Properties == nil {
		merged.Properties = today.Properties
	}
	return &merged, nil
}

// users caches callers of one directory snapshot. Each name has one slot, which the next name with the same slot
// overwrites.
type users struct {
	seed  maphash.Seed
	slots [512]atomic.Pointer[knownUser]
}

// knownUser is a cached lookup. It is immutable.
type knownUser struct {
	name  string
	byID  bool
	parts userParts
	epoch uint64      // of the snapshot: an expired relation may change the result
	user  *input.User // nil: not found

	disabled bool
}

func newUsers() *users { return &users{seed: maphash.MakeSeed()} }

// maxKnown bounds the groups, roles and properties of a cached user: all slots together take a few MiB at most.
const maxKnown = 256

// cacheable reports whether a user may be cached.
func cacheable(u *input.User) bool {
	if u == nil {
		return true
	}
	left := maxKnown - len(u.Roles) - len(u.Groups)
	return fitsInto(u.Properties, &left)
}

// fitsInto subtracts the size of x from what is left, and reports whether anything remains.
func fitsInto(x any, left *int) bool {
	*left--
	switch x := x.(type) {
	case string:
		*left -= len(x) >> 5
	case []any:
		for i := 0; i < len(x) && *left >= 0; i++ {
			fitsInto(x[i], left)
		}
	case map[string]any:
		for name, value := range x {
			if *left -= len(name) >> 5; *left < 0 || !fitsInto(value, left) {
				break
			}
		}
	}
	return *left >= 0
}

func (k *users) find(s *directory.Snapshot, byID bool, name string, parts userParts, now time.Time) (user *input.User, disabled bool, err error) {
	slot := &k.slots[maphash.String(k.seed, name)%uint64(len(k.slots))]
	epoch := s.Epoch(now)
	if known := slot.Load(); known != nil && known.name == name && known.byID == byID && known.parts&parts == parts && known.epoch == epoch {
		return known.user, known.disabled, nil
	}
	user, disabled, err = lookUp(s, byID, name, parts, now)
	if err != nil {
		return nil, false, err
	}
	if cacheable(user) {
		slot.Store(&knownUser{name: name, byID: byID, parts: parts, epoch: epoch, user: user, disabled: disabled})
	}
	return user, disabled, nil
}

// lookUp loads a user and these parts from a snapshot, and whether he is disabled there.
func lookUp(s *directory.Snapshot, byID bool, name string, parts userParts, now time.Time) (user *input.User, disabled bool, err error) {
	object, known := directory.Object{}, false
	if byID {
		object, known = s.Object(directory.Ref{Type: "user", ID: name})
	} else {
		object, known, err = s.User(name, now)
	}
	if err != nil || !known {
		return nil, false, err
	}
	if disabled, err = object.Disabled(); err != nil {
		return nil, false, err
	}
	if user, err = loadUser(s, &object, parts, now); err != nil {
		return nil, false, err
	}
	return user, disabled, nil
}

// loadUser makes a user of an object, with these parts.
func loadUser(s *directory.Snapshot, object *directory.Object, parts userParts, now time.Time) (_ *input.User, err error) {
	user := &input.User{ID: object.ID, DisplayName: object.DisplayName}
	if parts&userRoles != 0 {
		if user.Roles, err = members(s, object.Ref, "role", now); err != nil {
			return nil, err
		}
	}
	if parts&userGroups != 0 {
		if user.Groups, err = members(s, object.Ref, "group", now); err != nil {
			return nil, err
		}
	}
	if parts&userProperties != 0 && len(object.Properties) > 0 {
		d := json.NewDecoder(bytes.NewReader(object.Properties))
		d.UseNumber()
		if err := d.Decode(&user.Properties); err != nil {
			return nil, fmt.Errorf("properties of %s: %w", object.Ref, err)
		}
	}
	return user, nil
}

// members are the ids of all objects of a type that a user is a member of, through groups. Empty where the manifest
// lacks the type or the relation.
func members(s *directory.Snapshot, user directory.Ref, typ string, now time.Time) ([]string, error) {
	ids, err := s.Members(user, typ, memberRelation, now)
	switch {
	case errors.Is(err, directory.ErrUnknownType), errors.Is(err, directory.ErrUnknownRelation):
		return []string{}, nil
	case err != nil:
		return nil, fmt.Errorf("%ss of %s: %w", typ, user, err)
	case ids == nil:
		ids = []string{}
	}
	return ids, nil
}
