package gate

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"gatehouse/policy"
)

// Verdict is what is decided about a request, before an Answer is made of it. The zero value denies.
type Verdict struct {
	Allow  bool
	Reason Reason // None where Allow
	Status int    // that the client gets, unless a browser is sent to log in
	Own    int    // the status that the policy chose for a denial; 0: none
}

// VerdictOf is the one place where what a policy said, or why it said nothing, becomes a verdict. d may be nil with an error.
func VerdictOf(d *policy.Decision, err error) Verdict {
	switch {
	case err == nil && d.Allowed:
		return Verdict{Allow: true, Status: http.StatusOK}
	case err == nil:
		return Verdict{Reason: Denied, Status: cmp.Or(d.Status, Denied.Status()), Own: d.Status}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return deniedFor(Timeout)
	case errors.Is(err, policy.ErrUndefined):
		return deniedFor(NoDecision)
	case errors.Is(err, policy.ErrOverloaded):
		return deniedFor(Overloaded)
	}
	return deniedFor(PolicyError)
}

func deniedFor(why Reason) Verdict { return Verdict{Reason: why, Status: why.Status()} }

// Anonymous is the verdict about a caller who could have brought a credential and did not: a denial asks for one, unless the policy chose
// a status itself.
func (v Verdict) Anonymous() Verdict {
	if v.Reason == Denied && v.Own == 0 {
		return deniedFor(NoCredential)
	}
	return v
}

// OfPolicy reports whether a denial for this reason is what became of asking the policy.
func (r Reason) OfPolicy() bool {
	return r == Denied || r == NoCredential || r == NoDecision || r == PolicyError
}

// ReasonNamed is the reason of a name, as logs and answers have it; None where there is no such reason.
func ReasonNamed(name string) Reason {
	for r := None + 1; r < reasons; r++ {
		if outcomes[r].label == name {
			return r
		}
	}
	return None
}
