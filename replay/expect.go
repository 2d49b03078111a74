package replay

import (
	"slices"
	"strings"

	"gatehouse/decisionlog/events"
	"gatehouse/gate"
)

// IsVerdict reports whether a text is a valid verdict pattern; "" matches any.
func IsVerdict(text string) bool {
	words := strings.Fields(text)
	switch {
	case len(words) == 0:
		return text == ""
	case words[0] == "allow":
		return len(words) == 1
	case words[0] != "deny" || len(words) > 3:
		return false
	}
	return !slices.ContainsFunc(words[1:], func(word string) bool {
		return !gate.ReasonNamed(word).OfPolicy() && (len(word) != 3 || strings.Trim(word, "0123456789") != "")
	})
}

// Expected is an intended change: it covers every decision that matches all its fields.
type Expected struct {
	Route   string `yaml:"route"`   // DELETE /orders/{id}, the template, or the route's name
	Method  string `yaml:"method"`  // DELETE
	App     string `yaml:"app"`     // the application's name
	Subject string `yaml:"subject"` // the caller
	Role    string `yaml:"role"`    // one of the caller's roles
	From    string `yaml:"from"`    // allow, deny, deny 403, deny no_credential, deny 403 denied
	To      string `yaml:"to"`      // likewise

	Place string `yaml:"-"` // file:line
}

// covers reports whether a change is an expected one.
func (e *Expected) covers(c *change) bool {
	return (e.Route == "" || c.route.Named(e.Route)) && (e.Method == "" || e.Method == c.route.Method) &&
		(e.App == "" || e.App == c.route.App) && (e.Subject == "" || e.Subject == c.record.Identity.Subject.Decode()) &&
		(e.Role == "" || slices.Contains(events.Strings(c.record.Identity.Roles), e.Role)) && c.from.Matches(e.From) && c.to.Matches(e.To)
}

// String formats the entry for the file.
func (e *Expected) String() string {
	var parts []string
	for _, part := range [][2]string{{"route", e.Route}, {"method", e.Method}, {"app", e.App}, {"subject", e.Subject}, {"role", e.Role}, {"from", e.From}, {"to", e.To}} {
		if part[1] != "" {
			parts = append(parts, part[0]+": "+part[1])
		}
	}
	return strings.Join(parts, ", ")
}
