package gate

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"go.uber.org/zap/zapcore"

	"gatehouse/policy"
)

// Reason says why a request was denied. The set is closed: it is the metric label, the decision log's "reason" and,
// where the policy gives no text, what the client sees.
type Reason uint8

// The reasons. None is for allowed requests only; a denial without a more specific reason is Internal.
const (
	None Reason = iota
	BadRequest
	NoCredential
	BadCredential
	UnknownUser
	DisabledUser
	NoRoute
	NoDecision
	Denied
	PolicyError
	NotReady
	Unavailable
	Overloaded
	Timeout
	Internal
	reasons // their number
)

// outcomes is the single table from a Reason to its name, status and text.
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
	DisabledUser:  {"disabled_user", http.StatusForbidden, zapcore.InfoLevel},
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

// String is the reason's name in logs, metrics and denials.
func (r Reason) String() string {
	if r >= reasons {
		r = Internal
	}
	return outcomes[r].label
}

// Status is the default HTTP status of a denial for this reason.
func (r Reason) Status() int {
	if r >= reasons {
		r = Internal
	}
	return outcomes[r].status
}

// failure is the error of a stage that stops a request: the Reason, which is public, and the cause, for the operator
// only.
type failure struct {
	reason Reason
	status int // 0: the reason's own
	cause  error
}

func fail(reason Reason, cause error) error { return &failure{reason: reason, cause: cause} }

func (f *failure) Error() string { return f.reason.String() + ": " + f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }

// asFailure finds the failure in err. Any other error is Internal.
func asFailure(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	return &failure{reason: Internal, cause: err}
}

// Verdict is the decision about a request, before it becomes an Answer. The zero value denies.
type Verdict struct {
	Allow        bool
	Reason       Reason // None where Allow
	Status       int    // for the client, unless a browser is redirected to log in
	PolicyStatus int    // the status that the policy chose for a denial; 0: none
}

// VerdictOf is the only place where a policy's decision or error becomes a verdict. d may be nil with an error.
func VerdictOf(d *policy.Decision, err error) Verdict {
	switch {
	case err == nil && d.Allowed:
		return Verdict{Allow: true, Status: http.StatusOK}
	case err == nil:
		return Verdict{Reason: Denied, Status: cmp.Or(d.Status, Denied.Status()), PolicyStatus: d.Status}
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

// Anonymous is the verdict for an anonymous caller where credentials are configured: a denial asks for one, unless
// the policy chose a status.
func (v Verdict) Anonymous() Verdict {
	if v.Reason == Denied && v.PolicyStatus == 0 {
		return deniedFor(NoCredential)
	}
	return v
}

// OfPolicy reports whether this reason is a result of policy evaluation.
func (r Reason) OfPolicy() bool {
	return r == Denied || r == NoCredential || r == NoDecision || r == PolicyError
}

// ReasonNamed is the inverse of String; None where there is no such reason.
func ReasonNamed(name string) Reason {
	for r := None + 1; r < reasons; r++ {
		if outcomes[r].label == name {
			return r
		}
	}
	return None
}
