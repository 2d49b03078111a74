package trial

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/policy/explain"
)

// Explanation is what check --explain and explain say about a policy's part in a decision.
type Explanation struct {
	Caller  string               `json:"caller"`            // who, by which credential
	Stopped string               `json:"stopped,omitempty"` // why the policy was not asked
	Policy  *explain.Explanation `json:"policy,omitempty"`
}

// Explain says how an attempt's answer came about.
func (t *Trial) Explain(ctx context.Context, a *Request, answer *gate.Answer, secrets bool) *Explanation {
	found := t.gate.Explain(ctx, a.Gate(), func(input map[string]any) explain.Options {
		if secrets {
			return explain.Options{}
		}
		return RedactOptions(t.redact, input)
	})
	caller := func() string {
		text := a.caller(&found.Identity)
		if found.InDirectory != "" {
			text += "; " + found.InDirectory
		}
		return text
	}
	out := &Explanation{Policy: found.Policy, Caller: caller()}
	if found.Policy != nil {
		found.Policy.Nearest = t.Confirm(ctx, found.Policy.Nearest, func(method string) *gate.Request {
			other := *a
			other.Method = method
			return other.Gate()
		})
	}
	if found.Policy == nil {
		out.Stopped = Cause(a, answer)
		out.Caller = Unknown(answer.Reason.String())
		if found.Identity.Type != "" {
			out.Caller = caller()
		}
	}
	return out
}

// Confirm drops the methods that the policy would allow and the route table does not have.
func (t *Trial) Confirm(ctx context.Context, nearest []explain.Near, with func(method string) *gate.Request) []explain.Near {
	var out []explain.Near
	for _, near := range nearest {
		if near.Kind == "method" {
			near.Values = slices.DeleteFunc(slices.Clone(near.Values), func(method string) bool {
				answer := t.gate.Check(ctx, with(method))
				return !answer.Allow || answer.DryRun
			})
		}
		if near.Kind != "method" || len(near.Values) > 0 {
			out = append(out, near)
		}
	}
	return out
}

// RedactOptions are the options that keep out of an explanation what the decision log does not show either.
func RedactOptions(redact decisionlog.Redact, input map[string]any) explain.Options {
	paths, texts := redact.Secrets(input)
	return explain.Options{Secret: paths, Hide: texts}
}

// caller says who was taken to call, and what showed it.
func (a *Request) caller(id *identity.Identity) string {
	if a.As != nil {
		return withRoles(id.Subject, id.Roles, "given") + ", taken from the command line, nothing verified it"
	}
	return CalledBy(id.Type, id.Subject, id.Issuer, id.Roles, id.Authenticated)
}

// Unknown says why nobody is known to have called where the policy was not asked.
func Unknown(reason string) string {
	switch reason {
	case "no_credential":
		return "anonymous: the request brought no credential"
	case "bad_credential":
		return "not known: the credential was refused"
	case "unknown_user":
		return "a caller who is not in the directory"
	case "disabled_user":
		return "a caller whose user is disabled in the directory"
	case "unavailable":
		return "not known: the credential could not be verified"
	}
	return "not known: this was decided before a credential was looked at"
}

// withRoles names a caller with the roles of what he presented. Those of the directory are something else.
func withRoles(subject string, roles []string, of string) string {
	if len(roles) == 0 {
		return fmt.Sprintf("%q, no roles %s", subject, of)
	}
	return fmt.Sprintf("%q with role %s", subject, strings.Join(roles, ", "))
}

// CalledBy says who called and by what kind of credential.
func CalledBy(kind, subject, issuer string, roles []string, authenticated bool) string {
	switch {
	case !authenticated:
		return "anonymous: the request brought no credential"
	case kind == identity.TypeJWT && issuer != "":
		return withRoles(subject, roles, "in the token") + ", by a token of " + issuer
	case kind == identity.TypeJWT:
		return withRoles(subject, roles, "in the token") + ", by a token"
	}
	return withRoles(subject, roles, "in the credential") + ", by an API key or an introspected token"
}
