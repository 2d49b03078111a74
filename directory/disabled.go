package directory

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// ProviderPart is the property that holds what a user's identity provider says of him (SCIM). Only control's SCIM server
// writes it; everything beside it is the application's.
const ProviderPart = "scim"

// Disabled reports whether a user is disabled: by the property disabled, or by disabled in the provider's part. Every value
// other than false and null disables: who writes "true" as a string means it.
func (o *Object) Disabled() (bool, error) { return disabled(o.Ref, string(o.Properties)) }

// Disabled reports whether a user is disabled, by his id or by an identity of his, as User finds it. One who is not there is
// not disabled.
func (s *Snapshot) Disabled(byID bool, name string, now time.Time) (is bool, err error) {
	var n number
	var known bool
	if byID {
		t, ok := s.symbols.typ("user")
		if !ok || name == wildcard {
			return false, nil
		}
		n, known = s.find(t, name)
	} else {
		n, known, err = s.userOf(name, now)
	}
	if !known || err != nil {
		return false, err
	}
	_, id, _, properties := s.record(n).parts()
	return disabled(Ref{"user", id}, properties)
}

func disabled(r Ref, p string) (bool, error) {
	if !strings.Contains(p, "disabled") && strings.IndexByte(p, '\\') < 0 { // an escape may spell the name
		return false, nil
	}
	var all map[string]any // into a struct, encoding/json would also take DISABLED
	if err := json.Unmarshal([]byte(p), &all); err != nil {
		return false, fmt.Errorf("properties of %s: %w", r, err)
	}
	provider, _ := all[ProviderPart].(map[string]any)
	return isDisabling(all["disabled"]) || isDisabling(provider["disabled"]), nil
}

func isDisabling(v any) bool { return v != nil && v != false }
