package trial

import (
	"encoding/xml"
	"fmt"
	"os"
	"strings"
	"time"
)

// maxJUnitText bounds each text in a report, in bytes: CI systems show it in a cell of a table.
const maxJUnitText = 4 << 10

// The elements of a JUnit report that CI systems agree on.
type (
	junitReport struct {
		XMLName  xml.Name      `xml:"testsuites"`
		Tests    int           `xml:"tests,attr"`
		Failures int           `xml:"failures,attr"`
		Skipped  int           `xml:"skipped,attr"`
		Suites   []*junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"` // seconds
		Cases    []junitCase `xml:"testcase"`

		took time.Duration
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		File    string        `xml:"file,attr"`
		Line    string        `xml:"line,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitFailure `xml:"failure"`
		Skipped *struct{}     `xml:"skipped"`
		Output  string        `xml:"system-out,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes a report with one suite for the Rego tests and one for each table.
func WriteJUnit(file string, outcomes []Outcome) error {
	report := junitReport{}
	suites := map[string]*junitSuite{}
	for _, o := range outcomes {
		s := suites[o.Suite]
		if s == nil {
			s = &junitSuite{Name: bounded(o.Suite)}
			suites[o.Suite] = s
			report.Suites = append(report.Suites, s)
		}
		colon := strings.LastIndexByte(o.Place, ':')
		c := junitCase{Class: s.Name, Name: bounded(o.Name), File: bounded(o.Place[:colon]), Line: o.Place[colon+1:], Time: seconds(o.Duration), Output: bounded(o.Output)}
		switch {
		case o.Failed:
			c.Failure = &junitFailure{Message: bounded(o.Details[0]), Text: bounded(strings.Join(o.Details, "\n"))}
			s.Failures++
			report.Failures++
		case o.Skipped:
			c.Skipped = &struct{}{}
			s.Skipped++
			report.Skipped++
		}
		s.Tests++
		report.Tests++
		s.took += o.Duration
		s.Cases = append(s.Cases, c)
	}
	for _, s := range report.Suites {
		s.Time = seconds(s.took)
	}
	text, err := xml.MarshalIndent(report, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append([]byte(xml.Header), append(text, '\n')...), 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the JUnit report: %w", err)
	}
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }

// bounded cuts a text. What XML has no place for is replaced when it is written.
func bounded(text string) string {
	if len(text) <= maxJUnitText {
		return text
	}
	return strings.ToValidUTF8(text[:maxJUnitText], "") + "..."
}
