package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"gatehouse/identity"
	"gatehouse/terminal"
)

// tokenVerdict is that of TokenVerdict.
type tokenVerdict struct {
	Accepted bool         `json:"accepted"`
	Error    string       `json:"error,omitempty"`
	Checks   []tokenCheck `json:"checks"`
	Claims   []string     `json:"claims,omitempty"` // their names
	Subject  string       `json:"subject,omitempty"`
	Roles    []string     `json:"roles,omitempty"`
}

type tokenCheck struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Found string `json:"found,omitempty"`
	Want  string `json:"want,omitempty"`
}

// TokenVerdict is what token why prints as JSON.
func TokenVerdict(e *identity.Explanation, accepted bool) any {
	v := tokenVerdict{Accepted: accepted, Checks: []tokenCheck{}, Claims: e.Claims}
	if e.Err != nil {
		v.Error = e.Err.Error()
	}
	if accepted {
		v.Subject, v.Roles = e.Identity.Subject, e.Identity.Roles
	}
	for _, c := range e.Checks {
		v.Checks = append(v.Checks, tokenCheck{c.Name, fmt.Sprint(c.State), c.Found, c.Want})
	}
	return v
}

// Token writes which checks a token passed, for people.
func Token(w io.Writer, e identity.Explanation, keys []identity.KeyStatus) {
	verdict := "accepted"
	switch {
	case e.Err != nil:
		verdict = "refused: " + e.Err.Error()
	case !e.Identity.Authenticated:
		verdict = "no credential: nothing that is looked for is in it"
	}
	fmt.Fprintln(w, verdict)
	fmt.Fprintln(w)
	for _, c := range e.Checks {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-12s %-11s %s", c.State, c.Name, terminal.Visible(c.Found)), " "))
		if c.State == identity.Failed && c.Want != "" {
			fmt.Fprintf(w, "%-12s %-11s %s\n", "", "  expected", terminal.Visible(c.Want))
		}
	}
	if len(e.Claims) > 0 {
		fmt.Fprintf(w, "\nclaims: %s\n", terminal.Visible(strings.Join(e.Claims, ", ")))
	}
	for _, k := range keys {
		if k.Error != "" {
			fmt.Fprintf(w, "\nkeys of %s: %s\n", terminal.Visible(k.Issuer), terminal.Visible(k.Error))
		}
	}
	if e.Err == nil && e.Identity.Authenticated {
		writeIdentity(w, &e.Identity)
	}
}

func writeIdentity(w io.Writer, id *identity.Identity) {
	fmt.Fprintln(w)
	for _, row := range []struct {
		name   string
		values []string
	}{{"subject", []string{id.Subject}}, {"issuer", []string{id.Issuer}}, {"roles", id.Roles}, {"groups", id.Groups}, {"scopes", id.Scopes}, {"email", []string{id.Email}}} {
		var shown []string
		for _, value := range row.values {
			if value != "" {
				shown = append(shown, fmt.Sprintf("%+q", value))
			}
		}
		if shown == nil {
			shown = []string{"none"}
		}
		fmt.Fprintf(w, "%-8s %s\n", row.name, terminal.Visible(strings.Join(shown, ", ")))
	}
	if !id.Expires.IsZero() {
		fmt.Fprintf(w, "%-8s %s\n", "expires", id.Expires.UTC().Format(time.RFC3339))
	}
}
