package report

import (
	"fmt"
	"io"
	"strings"

	"gatehouse/terminal"
	"gatehouse/trial"
)

// Tests is how the outcomes of tests are shown.
type Tests struct {
	Outcomes []trial.Outcome
	Verbose  bool      // passed tests too
	Coverage *Coverage // nil: not asked for
}

// Coverage says how many routes have the tests that they need.
type Coverage struct {
	Covered int    `json:"covered"`
	Routes  int    `json:"routes"`
	Lines   string `json:"-"` // of the routes that lack one, for people
}

// Failed is how many tests failed.
func (t *Tests) Failed() int { failed, _, _ := t.sums(); return failed }

func (t *Tests) sums() (failed, skipped, passed int) {
	for _, o := range t.Outcomes {
		switch {
		case o.Failed:
			failed++
		case o.Skipped:
			skipped++
		default:
			passed++
		}
	}
	return failed, skipped, passed
}

func labelOf(o *trial.Outcome) string {
	switch {
	case o.Failed:
		return "fail"
	case o.Skipped:
		return "skip"
	}
	return "pass"
}

// Write shows what failed, all of it where that is wanted, and the sums.
func (t *Tests) Write(w io.Writer) error {
	var b strings.Builder
	for _, o := range t.Outcomes {
		if o.Failed || t.Verbose {
			label := labelOf(&o)
			if o.Failed {
				label = "FAIL"
			}
			writeOutcome(&b, label, &o)
		}
	}
	if c := t.Coverage; c != nil {
		percent := 100 // of none
		if c.Routes > 0 {
			percent = 100 * c.Covered / c.Routes
		}
		fmt.Fprintf(&b, "%s%d of %d routes have an allow and a deny test (%d%%)\n", c.Lines, c.Covered, c.Routes, percent)
	}
	failed, skipped, passed := t.sums()
	fmt.Fprintf(&b, "%d passed, %d failed", passed, failed)
	if skipped > 0 {
		fmt.Fprintf(&b, ", %d skipped", skipped)
	}
	_, err := io.WriteString(w, b.String()+"\n")
	return err
}

// WriteJSON is the same for programs: all tests, as one object.
func (t *Tests) WriteJSON(w io.Writer) error {
	type test struct {
		Suite   string   `json:"suite"`
		Place   string   `json:"place"`
		Name    string   `json:"name"`
		Outcome string   `json:"outcome"` // pass, fail, skip
		Details []string `json:"details,omitempty"`
		Output  string   `json:"output,omitempty"`
		Seconds float64  `json:"seconds"`
	}
	out := struct {
		Passed   int       `json:"passed"`
		Failed   int       `json:"failed"`
		Skipped  int       `json:"skipped"`
		Tests    []test    `json:"tests"`
		Coverage *Coverage `json:"coverage,omitempty"`
	}{Tests: []test{}, Coverage: t.Coverage}
	out.Failed, out.Skipped, out.Passed = t.sums()
	for _, o := range t.Outcomes {
		out.Tests = append(out.Tests, test{o.Suite, o.Place, o.Name, labelOf(&o), o.Details, o.Output, o.Duration.Seconds()})
	}
	return terminal.JSON(w).Encode(out)
}

func writeOutcome(w io.Writer, label string, o *trial.Outcome) {
	fmt.Fprintf(w, "%s  %s: %s\n", label, terminal.Visible(o.Place), terminal.Visible(o.Name))
	for _, detail := range o.Details {
		fmt.Fprintf(w, "      %s\n", terminal.Visible(detail))
	}
	for line := range strings.Lines(o.Output) {
		fmt.Fprintf(w, "      | %s\n", terminal.Visible(strings.TrimRight(line, "\n")))
	}
}
