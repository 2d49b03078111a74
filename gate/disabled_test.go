package gate_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
)

// TestDisabled: a user who is disabled is denied in each way that says so, whatever the policy reads, unless it is allowed.
func TestDisabled(t *testing.T) {
	set := func(properties string) directory.Change {
		return directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: "v1"}, Properties: []byte(properties)}}
	}
	for name, test := range map[string]struct {
		properties string
		users      gate.Users
		who        *identity.Identity
		want       gate.Reason
	}{
		"by the application":      {`{"disabled":true}`, gate.Users{}, vera(), gate.DisabledUser},
		"by the provider":         {`{"scim":{"disabled":true}}`, gate.Users{}, vera(), gate.DisabledUser},
		"by both":                 {`{"disabled":true,"scim":{"disabled":true}}`, gate.Users{}, vera(), gate.DisabledUser},
		"the provider allows":     {`{"disabled":true,"scim":{"disabled":false}}`, gate.Users{}, vera(), gate.DisabledUser},
		"the application allows":  {`{"disabled":false,"scim":{"disabled":true}}`, gate.Users{}, vera(), gate.DisabledUser},
		"by id":                   {`{"disabled":true}`, gate.Users{ByID: true}, caller("v1"), gate.DisabledUser},
		"by e-mail":               {`{"disabled":true}`, gate.Users{Email: true}, vera(), gate.DisabledUser},
		"a text":                  {`{"disabled":"true"}`, gate.Users{}, vera(), gate.DisabledUser},
		"a text that says no":     {`{"disabled":"false"}`, gate.Users{}, vera(), gate.DisabledUser},
		"an escape":               {`{"dis\u0061bled":true}`, gate.Users{}, vera(), gate.DisabledUser},
		"unknown ones denied too": {`{"disabled":true}`, gate.Users{DenyUnknown: true}, vera(), gate.DisabledUser},
		"false":                   {`{"disabled":false}`, gate.Users{}, vera(), gate.None},
		"null":                    {`{"disabled":null}`, gate.Users{}, vera(), gate.None},
		"another name":            {`{"Disabled":true,"x":{"disabled":true}}`, gate.Users{}, vera(), gate.None},
		"another's":               {`{"disabled":true}`, gate.Users{}, caller("nobody"), gate.None},
		"no caller":               {`{"disabled":true}`, gate.Users{}, &identity.Identity{Type: identity.TypeNone}, gate.None},
		"allowed":                 {`{"disabled":true}`, gate.Users{AllowDisabled: true}, vera(), gate.None},
		"ambiguous":               {`{}`, gate.Users{}, caller("twin"), gate.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings()
			s.Users = &test.users
			for _, policy := range []string{allowAll, tellUser} {
				g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, compile(t, policy)), withDirectory(people(t, set(test.properties))))
				for range 2 {
					if a := g.Check(t.Context(), as(get("/"), test.who)); a.Reason != test.want || a.Allow != (test.want == gate.None) {
						t.Errorf("%v %v: %v", a.Allow, a.Reason, a.Diagnostics.Cause)
					}
				}
			}
		})
	}
}

// TestDisabledAndMemo: users are disabled, enabled and deleted at random, while their decisions are remembered: no decision
// outlives what it was based on.
func TestDisabledAndMemo(t *testing.T) {
	s := settings()
	s.Users = &gate.Users{ByID: true, DenyUnknown: true}
	now := people(t)
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, compile(t, allowAll)), withDirectory(now))
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // not for secrets
	want := map[string]gate.Reason{}
	for i := range 400 {
		id := fmt.Sprint("w", rng.IntN(4))
		change := directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: id}}}
		switch rng.IntN(4) {
		case 0:
			change.SetObject.Properties, want[id] = []byte(`{"disabled":true}`), gate.DisabledUser
		case 1:
			change.SetObject.Properties, want[id] = []byte(`{"scim":{"disabled":true}}`), gate.DisabledUser
		case 2:
			change, want[id] = directory.Change{DeleteObject: &change.SetObject.Ref}, gate.UnknownUser
		default:
			want[id] = gate.None
		}
		next, err := now.Apply([]directory.Change{change})
		if err != nil {
			t.Fatal(err)
		}
		now = next
		if err := g.Publish(t.Context(), withDirectory(now)); err != nil {
			t.Fatal(err)
		}
		for id, reason := range want {
			if a := g.Check(t.Context(), as(get("/"), caller(id))); a.Reason != reason {
				t.Fatalf("step %d: %s: %v, not %v", i, id, a.Reason, reason)
			}
		}
	}
	if g.MemoStatus().Hits == 0 && !gatetest.Plain() {
		t.Error("nothing was remembered")
	}
}

// BenchmarkAdmit is a remembered decision that reads no user, with and without the look at whether the caller is disabled.
func BenchmarkAdmit(b *testing.B) {
	const users = 5000
	office := benchOffice(b, users)
	for _, callers := range []int{1, users} {
		requests := benchRequests(callers)
		for name, users := range map[string]*gate.Users{"none": nil, "allow": {ByID: true, AllowDisabled: true}, "deny": {ByID: true}} {
			b.Run(fmt.Sprintf("callers=%d/%s", callers, name), func(b *testing.B) {
				s := settings()
				s.Users = users
				g := gatetest.Start(b, gate.Config{}, gatetest.With(b, s, compile(b, allowAll)), withDirectory(office))
				for i := 0; b.Loop(); i++ {
					if a := g.Check(b.Context(), requests[i%len(requests)]); !a.Allow {
						b.Fatal(a.Reason, a.Diagnostics.Cause)
					}
				}
			})
		}
	}
}
