package gate

import (
	"slices"
	"strings"
	"time"

	"gatehouse/identity"
	"gatehouse/input"
	"gatehouse/policy/reach"
)

// RecordedCaller is the caller of an earlier decision, as far as the decision log has him.
type RecordedCaller struct {
	Identity  *identity.Identity
	User      *input.User // nil: the record has none
	Directory bool        // a directory took part in the decision
	Same      bool        // the same rule decided: what it reads of the user and the record lacks was not there
	Withheld  []string    // JSON pointers to what the log erased or masked
}

// RecalledUser is what the directory of now says of a recorded caller. Its zero value: the record is complete.
type RecalledUser struct {
	Current bool           // the record lacks what the rule reads of the user, and the directory of now was asked
	User    map[string]any // then: input.user as a decision of now has it; nil: none
	Denied  bool           // then: Check denies such a caller (unknown_user)
	Unsure  string         // why it is not known what the rule would read
}

// User completes input.user of an earlier decision for a rule that reads more of it than the record has. It finds the
// caller as Check does, in the directory of the View, as of the time at.
func (p *Replayer) User(r *RecordedCaller, reads reach.Reads, at time.Time) RecalledUser {
	parts, wanted := userRead(reads)
	if !wanted || r.complete(parts) {
		return RecalledUser{}
	}
	const lacking = "input.user, which is not on record"
	users := p.view.settings().Users
	switch {
	case users == nil && r.Same, r.Same && r.Directory:
		return RecalledUser{}
	case users == nil && reads.Whole() && !r.Directory:
		return RecalledUser{} // no directory then nor now, and the rule names no user
	case users == nil || p.view.Directory == nil:
		return RecalledUser{Unsure: lacking + ", and there is no directory to take it from"}
	case r.User == nil && r.nameWithheld(users):
		return RecalledUser{Unsure: lacking + ", nor is the identity by which directory.user finds the caller"}
	}
	c := &call{req: &Request{As: r.Identity, User: r.User}, identity: *r.Identity, view: p.view, started: at}
	if err := c.findUser(parts); err != nil {
		return RecalledUser{Unsure: lacking + ": " + err.Error()}
	}
	switch u := c.user; {
	case u == nil:
		return RecalledUser{Current: true, Denied: users.DenyUnknown}
	case parts&userRoles != 0 && u.Roles == nil, parts&userGroups != 0 && u.Groups == nil:
		return RecalledUser{Unsure: "roles or groups of input.user, which are not on record, and the user is not in the directory any more"}
	}
	return RecalledUser{Current: true, User: plainUser(c.user)}
}

// complete reports whether nothing is to be asked: all is on record, or withheld, or such a caller has no user.
func (r *RecordedCaller) complete(parts userParts) bool {
	if slices.ContainsFunc(r.Withheld, func(p string) bool { return p == "/input/user" || strings.HasPrefix(p, "/input/user/") }) {
		return true // what the log does not keep is told apart
	}
	u := r.User
	if u == nil {
		return !r.Identity.Authenticated
	}
	return (parts&userRoles == 0 || u.Roles != nil) && (parts&userGroups == 0 || u.Groups != nil) && (parts&userProperties == 0 || u.Properties != nil)
}

// nameWithheld reports whether the record lacks the name by which the caller is looked up.
func (r *RecordedCaller) nameWithheld(u *Users) bool {
	id := r.Identity
	if len(u.Issuers) > 0 && !slices.Contains(u.Issuers, id.Issuer) && !r.withholds("issuer") {
		return false // such a caller has no user
	}
	switch {
	case len(u.Issuers) > 0 && r.withholds("issuer"):
		return true
	case u.Claim != "":
		_, has := id.Claims[u.Claim]
		return !has
	case u.Email:
		return id.Email == ""
	}
	return r.withholds("subject")
}

func (r *RecordedCaller) withholds(part string) bool {
	return slices.ContainsFunc(r.Withheld, func(p string) bool {
		return p == "/input/identity" || p == "/input/identity/"+part
	})
}

// Into makes the user that of an input as JSON has it.
func (u *RecalledUser) Into(document map[string]any) {
	if u.User == nil {
		delete(document, "user")
		return
	}
	document["user"] = u.User
}

// plainUser is a user as the policy's input has it.
func plainUser(u *input.User) map[string]any {
	out := map[string]any{"id": u.ID}
	if u.DisplayName != "" {
		out["display_name"] = u.DisplayName
	}
	if len(u.Properties) > 0 {
		out["properties"] = u.Properties
	}
	for name, list := range map[string][]string{"roles": u.Roles, "groups": u.Groups} {
		if list == nil {
			continue
		}
		plain := make([]any, len(list))
		for i := range list {
			plain[i] = list[i]
		}
		out[name] = plain
	}
	return out
}

// DirectoryRoles says what the directory of the View has of a caller, for people: "" where it is not known.
func (p *Replayer) DirectoryRoles(r *RecordedCaller, at time.Time) string {
	users := p.view.settings().Users
	if users == nil || p.view.Directory == nil || !r.Identity.Authenticated || r.nameWithheld(users) {
		return ""
	}
	c := &call{req: &Request{As: r.Identity}, identity: *r.Identity, view: p.view, started: at}
	return c.directoryRoles()
}

// directoryRoles is what the directory has of the caller; "" where he has no name in it, or it cannot say.
func (c *call) directoryRoles() string {
	u := c.view.settings().Users
	if u == nil || c.view.Directory == nil {
		return ""
	}
	name := u.name(&c.identity)
	if name == "" {
		return ""
	}
	user, disabled, err := lookUp(c.view.Directory, u.ByID, name, userRoles, c.started)
	switch {
	case err != nil:
		return ""
	case user == nil:
		return "not in the directory"
	case disabled:
		return "disabled in the directory"
	case len(user.Roles) == 0:
		return "in the directory without roles"
	}
	return "in the directory with role " + strings.Join(user.Roles, ", ")
}
