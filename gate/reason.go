package gate

import (
	"errors"
	"net/http"

	"go.uber.org/zap/zapcore"
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
