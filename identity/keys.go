package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"gatehouse/identity/keyset"
)

// Keys are the public keys of all issuers at one moment. They never change; nil has none. They fit the Verifier that made them
// and no other.
type Keys struct {
	owner      *Verifier
	generation uint64
	sets       []*keyset.Set // by issuer.index; nil = never loaded
	status     []KeyStatus
	others     []*otherPart // by the index in others.files; nil = never loaded
	digest     string
}

// KeyStatus is the state of one issuer's keys, of a file of API keys, or of a client secret.
type KeyStatus struct {
	Issuer    string    `json:"issuer"`              // or the file's key in the configuration, such as api_keys.file
	Source    string    `json:"source"`              // the file, or the URL without its query
	Loaded    bool      `json:"loaded"`              // there is a good set, though perhaps not the latest
	Stale     bool      `json:"stale,omitempty"`     // it serves because the URL cannot be read, or was not read yet
	Copy      bool      `json:"copy,omitempty"`      // it is the copy on disk of an earlier run
	Withdrawn bool      `json:"withdrawn,omitempty"` // it became older than KeySource.MaxStale and is not used any more
	Keys      int       `json:"keys"`                // usable keys in it
	FetchedAt time.Time `json:"fetched_at,omitzero"` // when a URL was last fetched, or a file last seen to change, by Config.Clock
	Error     string    `json:"error,omitempty"`     // why the latest attempt failed; empty when it did not
	Notices   []string  `json:"notices,omitempty"`   // keys of the set that are left out, and why
}

// Status lists the issuers in the order of the configuration, and then the other files.
func (k *Keys) Status() []KeyStatus {
	if k == nil {
		return nil
	}
	status := slices.Clone(k.status)
	for i := range status {
		status[i].Notices = slices.Clone(status[i].Notices)
	}
	return status
}

// Ready says why no credential can be verified yet, nil where one can. Keys that were loaded and then withdrawn do not make a process unready
// again: all instances would be unready at the same time, and a proxy that reaches none may let requests through. See Degraded for those.
func (v *Verifier) Ready(keys *Keys) error {
	if v.keyless || len(v.issuers) == 0 {
		return nil
	}
	if keys != nil && slices.ContainsFunc(keys.status, func(s KeyStatus) bool { return s.Loaded || s.Withdrawn }) {
		return nil
	}
	if missing := v.unavailable(keys); len(missing) == 1 {
		return errors.New(missing[0])
	}
	return errors.New("no issuer's keys were loaded yet")
}

// Degraded lists what does not work, each with the reason: issuers whose tokens are ErrUnavailable, all of them or those signed with ambiguous
// keys, and files that can no longer be read while their last content is still in use.
func (v *Verifier) Degraded(keys *Keys) []string {
	out := v.unavailable(keys)
	if keys == nil || keys.owner != v {
		return out
	}
	for i, iss := range v.issuers {
		set, status := keys.set(iss), keys.status[i]
		if set == nil {
			continue
		}
		if status.Error != "" && !iss.remote() {
			out = append(out, fmt.Sprintf("keys of issuer %q: the file cannot be read, and what it held before is used: %s", iss.Issuer.Issuer, status.Error))
		}
		for _, k := range set.Ambiguous() {
			out = append(out, fmt.Sprintf("keys of issuer %q: %s is left out: another has the same kid, type and algorithm", iss.Issuer.Issuer, k))
		}
	}
	for i, f := range v.others.files {
		status := keys.status[len(v.issuers)+i]
		switch {
		case status.Error == "":
		case status.Loaded:
			out = append(out, fmt.Sprintf("identity.%s: the file cannot be read, and what it held before is used: %s", f.key, status.Error))
		default:
			out = append(out, fmt.Sprintf("identity.%s: %s", f.key, status.Error))
		}
	}
	return out
}

// unavailable lists the issuers whose tokens are ErrUnavailable now. The others' are not affected.
func (v *Verifier) unavailable(keys *Keys) []string {
	var out []string
	for i, iss := range v.issuers {
		if keys.set(iss) != nil {
			continue
		}
		text := fmt.Sprintf("no keys of issuer %q yet", iss.Issuer.Issuer)
		if keys.missing(iss) == errStaleKeys {
			text = fmt.Sprintf("keys of issuer %q are older than max_stale", iss.Issuer.Issuer)
		}
		if keys != nil && keys.status[i].Error != "" {
			text += ": " + keys.status[i].Error
		}
		out = append(out, text)
	}
	return out
}

// Generation grows whenever any issuer's key set changes. It is 0 as long as nothing was loaded.
func (k *Keys) Generation() uint64 {
	if k == nil {
		return 0
	}
	return k.generation
}

// Digest names what credentials were verified with: SHA-256 in hexadecimal over the key sets and the API keys, each as it was read, in the
// order of the configuration. It is "" where nothing was loaded. Secrets of ours are no part of it.
func (k *Keys) Digest() string {
	if k == nil {
		return ""
	}
	return k.digest
}

func (k *Keys) sum() string {
	all, some := sha256.New(), false
	for _, set := range k.sets {
		var sum [sha256.Size]byte // zeros for what is not there: another issuer's keys are another digest
		if set != nil {
			sum, some = set.Sum(), true
		}
		all.Write(sum[:])
	}
	for _, part := range k.others {
		if part != nil && part.apiKeys != nil {
			all.Write(part.sum[:])
			some = true
		}
	}
	if !some {
		return ""
	}
	return hex.EncodeToString(all.Sum(nil))
}

// missing says why an issuer has no set.
func (k *Keys) missing(iss *issuer) error {
	if k != nil && iss.index < len(k.status) && k.status[iss.index].Withdrawn {
		return errStaleKeys
	}
	return errNoKeys
}

func (k *Keys) set(iss *issuer) *keyset.Set {
	if k == nil || iss == nil || iss.index >= len(k.sets) || k.owner.issuers[iss.index] != iss {
		return nil
	}
	return k.sets[iss.index]
}

// inherited is what older keys have of an issuer.
type inherited struct {
	set    *keyset.Set // nil = withdrawn, or never loaded
	status KeyStatus
}

// of finds an issuer of another Verifier that has its keys from the same place; nil = there is none.
func (k *Keys) of(iss *issuer) *inherited {
	if k == nil {
		return nil
	}
	for i, other := range k.owner.issuers {
		if other.Issuer.Issuer == iss.Issuer.Issuer && other.Keys.URL == iss.Keys.URL && other.Keys.Discovery == iss.Keys.Discovery {
			return &inherited{k.sets[i], k.status[i]}
		}
	}
	return nil
}
