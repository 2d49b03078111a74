package gate

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"go.uber.org/zap/zapcore"

	"gatehouse/policy"
)

// Reason says in one word why a request was denied. The set is closed: it is the metric's label, the decision log's
// "reason" and, where the policy gives no text of its own, what the client is told.
type Reason uint8

// The reasons. None belongs to an allowed request only; what is denied without a better one is Internal.
const (
	None Reason = iota
	BadRequest
	NoCredential
	BadCredential
	UnknownUser
	NoRoute
	NoDecision
	Denied
	PolicyError
	NotReady
	Unavailable
	Overloaded
	Timeout
	Internal
	reasons // how many there are
)

// outcomes is the one table that turns a Reason into what the world sees of it.
var outcomes = [reasons]struct {
	label  string
	status int
	level  zapcore.Level
}{
	None:          {"", http.StatusOK, zapcore.DebugLevel},
	BadRequest:    {"bad_request", http.StatusBadRequest, zapcore.InfoLevel},
	NoCredential:  {"no_credential", http.StatusUnauthorized, zapcore.DebugLevel},
	BadCredential: {"bad_credential", http.StatusUnauthorized, zapcore.InfoLevel},
	UnknownUser:   {"unknown_user", http.StatusForbidden, zapcore.InfoLevel},
	NoRoute:       {"no_route", http.StatusForbidden, zapcore.InfoLevel},
	NoDecision:    {"no_decision", http.StatusForbidden, zapcore.InfoLevel},
	Denied:        {"denied", http.StatusForbidden, zapcore.DebugLevel},
	PolicyError:   {"policy_error", http.StatusInternalServerError, zapcore.ErrorLevel},
	NotReady:      {"not_ready", http.StatusServiceUnavailable, zapcore.WarnLevel},
	Unavailable:   {"unavailable", http.StatusServiceUnavailable, zapcore.WarnLevel},
	Overloaded:    {"overloaded", http.StatusServiceUnavailable, zapcore.WarnLevel},
	Timeout:       {"timeout", http.StatusGatewayTimeout, zapcore.WarnLevel},
	Internal:      {"internal", http.StatusInternalServerError, zapcore.ErrorLevel},
}

// String is the reason's name as it stands in logs, metrics and denials.
func (r Reason) String() string {
	if r >= reasons {
		r = Internal
	}
	return outcomes[r].label
}

// Status is the HTTP status of a denial for this reason where nothing else chose one.
func (r Reason) Status() int {
	if r >= reasons {
		r = Internal
	}
	return outcomes[r].status
}

// failure is what a stage returns when it stops a request: the Reason for the world, the cause for the operator. The
// cause never reaches a client.
type failure struct {
	reason Reason
	status int // 0: the reason's own
	cause  error
}

func fail(reason Reason, cause error) error { return &failure{reason: reason, cause: cause} }

func (f *failure) Error() string { return f.reason.String() + ": " + f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }

// asFailure finds the failure in err. An error that no stage named is Internal.
func asFailure(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	return &failure{reason: Internal, cause: err}
}

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
