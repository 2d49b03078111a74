package trial

import (
	"context"
	"fmt"
	"strings"

	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/identity"
)

// VerdictLine is the first line of an answer.
func VerdictLine(answer *gate.Answer) string {
	switch {
	case answer.Direct:
		return "allow, and Gatehouse answers itself: permissions"
	case answer.DryRun:
		return "allow, by dry run: the verdict is deny " + answer.Reason.String()
	case answer.Allow:
		return "allow"
	}
	return fmt.Sprintf("deny %d %s", answer.Status, answer.Reason)
}

// Cause is why it came to a verdict, for operators: without the secrets of the request.
func Cause(a *Request, answer *gate.Answer) string {
	switch {
	case answer.Diagnostics.Cause != nil:
		text := answer.Diagnostics.Cause.Error()
		if kind := identity.ErrBadCredential.Error() + ": "; answer.Reason == gate.BadCredential { // which the reason says already
			text = strings.Replace(text, kind, "", 1)
		}
		return decisionlog.Redact{}.Shown(a.Path, a.Headers).Text(text)
	case answer.Diagnostics.Asked == "" && answer.Allow:
		return "bypass: let through before any credential or policy is looked at"
	}
	return ""
}

// Who names the caller, as far as the command line says.
func (a *Request) Who() string {
	switch {
	case a.As != nil && len(a.As.Roles) > 0:
		return fmt.Sprintf("%s (%s), not verified", a.As.Subject, strings.Join(a.As.Roles, ", "))
	case a.As != nil:
		return a.As.Subject + ", not verified"
	case len(a.Headers) > 0: // they may hold a credential
		return ""
	}
	return "anonymous"
}

// Who names the caller of an attempt: as the command line does, or by its credential.
func (t *Trial) Who(ctx context.Context, a *Request, answer *gate.Answer) string {
	if who := a.Who(); who != "" {
		return who
	}
	if id, ok := t.gate.Caller(ctx, a.Gate()); ok {
		return a.caller(&id)
	}
	if answer.Reason == gate.BadCredential || answer.Reason == gate.Unavailable {
		return Unknown(answer.Reason.String())
	}
	return ""
}

// Line is an answer in one line.
func Line(answer *gate.Answer) string {
	text := VerdictLine(answer)
	if reason := ClientReason(answer); reason != "" && reason != answer.Reason.String() {
		text += fmt.Sprintf(" %q", reason)
	}
	if r := answer.Diagnostics.Match.Route; r != nil {
		text += ", route " + strings.TrimSpace(r.Template+" "+r.Name)
	}
	return text
}
