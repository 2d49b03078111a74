package replay

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"gatehouse/decisionlog/events"
	"gatehouse/gate"
	"gatehouse/gate/recorded"
	"gatehouse/policy/bundle"
)

// DirectoryOfNow says where a user came from who was not on record.
const DirectoryOfNow = "input.user was not on record: taken from the directory of now"

// recall completes the user that a rule reads and the record lacks. input is the record's, or one with the user of now.
func (c *Candidate) recall(a *preparedRule, r *Record) (input json.RawMessage, user gate.RecalledUser, why string) {
	if reads, wanted := a.reads.Member("user"); !wanted || onRecord(events.Member(r.Input, "user"), reads.Has) {
		return r.Input, user, ""
	}
	if !r.Identity.Authenticated {
		return r.Input, user, "" // nobody has no user
	}
	d := json.NewDecoder(bytes.NewReader(r.Input))
	d.UseNumber()
	var document map[string]any
	if err := d.Decode(&document); err != nil {
		return nil, user, "its input is damaged"
	}
	caller, err := c.caller(a, r, document)
	if err != nil {
		return nil, user, "its input is damaged"
	}
	at, err := r.Time()
	if err != nil {
		at = time.Time{} // told where it is evaluated
	}
	user = c.gate.User(caller, a.reads, at)
	switch {
	case user.Unsure != "":
		return nil, user, "unsure: the policy reads " + user.Unsure
	case !user.Current || user.Denied:
		return r.Input, user, ""
	}
	user.Into(document)
	if input, err = json.Marshal(document); err != nil {
		return nil, user, "its input is damaged"
	}
	return input, user, ""
}

// caller is the recorded caller.
func (c *Candidate) caller(a *preparedRule, r *Record, document map[string]any) (*gate.RecordedCaller, error) {
	id, user, err := recorded.Caller(document)
	if err != nil {
		return nil, err
	}
	if r.Identity.Claims != nil { // the log keeps some claims beside the input
		d := json.NewDecoder(bytes.NewReader(r.Identity.Claims))
		d.UseNumber()
		id.Claims = nil
		_ = d.Decode(&id.Claims) // what is damaged is not on record
	}
	return &gate.RecordedCaller{Identity: id, User: user, Directory: r.Directory.Recorded, Same: c.decided(a, r),
		Withheld: slices.Concat(events.Strings(r.Erased), events.Strings(r.Masked))}, nil
}

// decided reports whether this very rule decided.
func (c *Candidate) decided(a *preparedRule, r *Record) bool {
	bundles, err := r.DecodeBundles()
	if err != nil || !isOf(c.view.Policy.Bundles(), bundles) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	path := string(r.Path)
	same, known := a.then[path]
	if !known {
		entry, err := c.gate.RuleAskedThen(r.Recorded())
		same = err == nil && entry != nil && slices.Equal(entry.Path(), a.replayer.Entry().Path())
		if a.then == nil || len(a.then) >= maxReasons {
			a.then = map[string]bool{}
		}
		a.then[path] = same
	}
	return same
}

// isOf reports whether bundles are those that decided. The name of a single one does not count.
func isOf(now []bundle.Info, decided map[string]events.Bundle) bool {
	if len(now) == 0 || len(now) != len(decided) {
		return false
	}
	for name, was := range decided {
		if was.Digest == "" || !slices.ContainsFunc(now, func(b bundle.Info) bool { return b.Digest == was.Digest && (b.Name == name || len(now) == 1) }) {
			return false
		}
	}
	return true
}

// onRecord reports whether a recorded user has all of it that is read.
func onRecord(user json.RawMessage, reads func(string) bool) bool {
	if user == nil {
		return false
	}
	for _, name := range []string{"roles", "groups", "properties"} {
		if reads(name) && events.Member(user, name) == nil {
			return false
		}
	}
	return true
}
