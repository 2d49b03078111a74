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
)

// Users says how a caller is found in the directory.
type Users struct {
	Email       bool     // the credential's e-mail address names the user, rather than its subject
	Claim       string   // this claim does, rather than its subject
	ByID        bool     // what names the user is the id of an object of type user, not an identity
	Issuers     []string // whose credentials are users' ones; empty: all
	DenyUnknown bool     // authenticated callers that are not in the directory are denied before the policy is asked
}

// userParts are the parts of a user that take questions of their own.
type userParts uint8

const (
	userRoles userParts = 1 << iota
	userGroups
	userProperties
)

// memberRelation is what a user is to his groups and roles.
const memberRelation = "member"

// errNoDirectory is what a View lacks whose directory was not loaded yet, or is too old.
var errNoDirectory = errors.New("the directory is not loaded")

// name is what of a credential names the user; "" where nothing does.
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

// admit denies callers that the directory does not know, where the settings say so.
func (c *call) admit() error {
	u := c.view.Settings.Users
	if u == nil || !u.DenyUnknown || !c.identity.Authenticated {
		return nil
	}
	if err := c.findUser(0); err != nil || c.user != nil {
		return err
	}
	return fail(UnknownUser, errors.New("the caller is not in the directory, and directory.unknown_user is deny"))
}

// readUser finds the caller in the directory where the rule that is asked reads the user, and of him what it reads.
func (c *call) readUser(r *rule) error {
	if c.view.Settings.Users == nil && c.req.User == nil {
		return nil
	}
	reads, wanted := r.entry.Reads().Member("user")
	if !wanted {
		return nil
	}
	var parts userParts
	for i, name := range [...]string{"roles", "groups", "properties"} {
		if reads.Has(name) {
			parts |= 1 << i
		}
	}
	return c.findUser(parts)
}

// findUser finds the caller in the directory, with these parts of him and those that were asked for before. A caller that is not there is
// no user; a question that fails is a denial.
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
			c.user, err = c.view.users.find(c.view.Directory, u.ByID, name, parts, c.started)
		}
	}
	if err != nil {
		return fail(Unavailable, fmt.Errorf("finding the caller in the directory: %w", err))
	}
	c.userFound, c.userParts = true, parts
	return nil
}

// recordedUser is the user that came with the request, with the parts that were not recorded from the directory of today.
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
	today, err := lookUp(c.view.Directory, true, recorded.ID, parts, c.started)
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

// users are callers that were looked up in one directory snapshot: the same ones come again and again. Each has one place, by its name, and
// makes room for the next that has it.
type users struct {
	seed  maphash.Seed
	slots [512]atomic.Pointer[knownUser]
}

// knownUser is what one snapshot says of a caller. It never changes.
type knownUser struct {
	name  string
	byID  bool
	parts userParts
	epoch uint64      // of the snapshot: what expired since may change the answer
	user  *input.User // nil: there is none
}

func newUsers() *users { return &users{seed: maphash.MakeSeed()} }

// maxKnown bounds the groups, roles and properties of a user that is kept: all places together take a few MiB at most.
const maxKnown = 256

// small reports whether a user is worth a place.
func small(u *input.User) bool {
	if u == nil {
		return true
	}
	left := maxKnown - len(u.Roles) - len(u.Groups)
	return weigh(u.Properties, &left)
}

// weigh takes what JSON takes from what is left, and reports whether anything is.
func weigh(x any, left *int) bool {
	*left--
	switch x := x.(type) {
	case string:
		*left -= len(x) >> 5
	case []any:
		for i := 0; i < len(x) && *left >= 0; i++ {
			weigh(x[i], left)
		}
	case map[string]any:
		for name, value := range x {
			if *left -= len(name) >> 5; *left < 0 || !weigh(value, left) {
				break
			}
		}
	}
	return *left >= 0
}

func (k *users) find(s *directory.Snapshot, byID bool, name string, parts userParts, now time.Time) (*input.User, error) {
	slot := &k.slots[maphash.String(k.seed, name)%uint64(len(k.slots))]
	epoch := s.Epoch(now)
	if known := slot.Load(); known != nil && known.name == name && known.byID == byID && known.parts&parts == parts && known.epoch == epoch {
		return known.user, nil
	}
	user, err := lookUp(s, byID, name, parts, now)
	if err != nil {
		return nil, err
	}
	if !small(user) {
		return user, nil
	}
	slot.Store(&knownUser{name: name, byID: byID, parts: parts, epoch: epoch, user: user})
	return user, nil
}

// lookUp asks a snapshot for a user, and for these parts of him.
func lookUp(s *directory.Snapshot, byID bool, name string, parts userParts, now time.Time) (*input.User, error) {
	object, known, err := directory.Object{}, false, error(nil)
	if byID {
		object, known = s.Object(directory.Ref{Type: "user", ID: name})
	} else {
		object, known, err = s.User(name, now)
	}
	if err != nil || !known {
		return nil, err
	}
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

// members are the ids of all objects of a type that a user is a member of, through groups. A manifest without such a type, or without the
// relation, has none.
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
