package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/policy"
)

// explained is what check --explain and explain say about a policy's part in a decision.
type explained struct {
	Caller  string              `json:"caller"`            // who, by which credential
	Stopped string              `json:"stopped,omitempty"` // why the policy was not asked
	Policy  *policy.Explanation `json:"policy,omitempty"`
}

// explain says how an attempt's answer came about.
func (t *trial) explain(ctx context.Context, a *attempt, answer *gate.Answer, secrets bool) *explained {
	found := t.gate.Explain(ctx, a.request(), func(input map[string]any) policy.ExplainOptions {
		if secrets {
			return policy.ExplainOptions{}
		}
		return hiding(decisionLog(t.config, nil, nil).Redact, input)
	})
	out := &explained{Policy: found.Policy, Caller: a.caller(&found.Identity)}
	if found.Policy != nil {
		found.Policy.Nearest = t.confirm(ctx, found.Policy.Nearest, func(method string) *gate.Request {
			other := *a
			other.method = method
			return other.request()
		})
	}
	if found.Policy == nil {
		out.Stopped = cause(a, answer)
		out.Caller = unknown(answer.Reason.String())
		if found.Identity.Type != "" {
			out.Caller = a.caller(&found.Identity)
		}
	}
	return out
}

// confirm drops the methods that the policy would allow and the route table does not have.
func (t *trial) confirm(ctx context.Context, nearest []policy.Near, with func(method string) *gate.Request) []policy.Near {
	var out []policy.Near
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

// hiding are the options that keep out of an explanation what the decision log does not show either.
func hiding(redact decisionlog.Redact, input map[string]any) policy.ExplainOptions {
	paths, texts := redact.Secrets(input)
	return policy.ExplainOptions{Secret: paths, Hide: texts}
}

// caller says who was taken to call, and what showed it.
func (a *attempt) caller(id *identity.Identity) string {
	if a.as != nil {
		return withRoles(id.Subject, id.Roles) + ", taken from the command line, nothing verified it"
	}
	return calledBy(id.Type, id.Subject, id.Issuer, id.Roles, id.Authenticated)
}

// unknown says why nobody is known to have called where the policy was not asked.
func unknown(reason string) string {
	switch reason {
	case "no_credential":
		return "anonymous: the request brought no credential"
	case "bad_credential":
		return "not known: the credential was refused"
	case "unavailable":
		return "not known: the credential could not be verified"
	}
	return "not known: this was decided before a credential was looked at"
}

func withRoles(subject string, roles []string) string {
	if len(roles) == 0 {
		return fmt.Sprintf("%q without roles", subject)
	}
	return fmt.Sprintf("%q with role %s", subject, strings.Join(roles, ", "))
}

// calledBy says who called and by what kind of credential.
func calledBy(kind, subject, issuer string, roles []string, authenticated bool) string {
	switch {
	case !authenticated:
		return "anonymous: the request brought no credential"
	case kind == identity.TypeJWT && issuer != "":
		return withRoles(subject, roles) + ", by a token of " + issuer
	case kind == identity.TypeJWT:
		return withRoles(subject, roles) + ", by a token"
	}
	return withRoles(subject, roles) + ", by an API key or an introspected token"
}

// print writes an explanation for people.
func (e *explained) print(w io.Writer) error {
	p := printer{w: w, colour: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	var b strings.Builder
	fmt.Fprintf(&b, "\nwhy\n  caller: %s\n", visible(e.Caller))
	switch {
	case e.Policy == nil && e.Stopped != "":
		fmt.Fprintf(&b, "  the policy was not asked: %s\n", visible(e.Stopped))
	case e.Policy == nil:
		b.WriteString("  the policy was not asked\n")
	default:
		for line := range strings.Lines(e.Policy.Text()) {
			b.WriteString("  " + p.shade(visible(strings.TrimSuffix(line, "\n"))) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shade colours the lines that say what came out.
func (p printer) shade(line string) string {
	switch {
	case strings.HasPrefix(line, "allowed"):
		return p.paint(green, line)
	case strings.HasPrefix(line, "denied"):
		return p.paint(red, line)
	case strings.HasPrefix(line, "would be"), strings.HasPrefix(line, "note:"):
		return p.paint(amber, line)
	case strings.HasPrefix(line, "      ") && !strings.Contains(line, " fails at line "):
		return p.paint(faint, line)
	}
	return line
}
