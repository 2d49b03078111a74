package main

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

// writeJUnit writes a report with one suite for the Rego tests and one for each table.
func writeJUnit(file string, outcomes []outcome) error {
	report := junitReport{}
	suites := map[string]*junitSuite{}
	for _, o := range outcomes {
		s := suites[o.suite]
		if s == nil {
			s = &junitSuite{Name: bounded(o.suite)}
			suites[o.suite] = s
			report.Suites = append(report.Suites, s)
		}
		colon := strings.LastIndexByte(o.place, ':')
		c := junitCase{Class: s.Name, Name: bounded(o.name), File: bounded(o.place[:colon]), Line: o.place[colon+1:], Time: seconds(o.duration), Output: bounded(o.output)}
		switch {
		case o.failed:
			c.Failure = &junitFailure{Message: bounded(o.details[0]), Text: bounded(strings.Join(o.details, "\n"))}
			s.Failures++
			report.Failures++
		case o.skipped:
			c.Skipped = &struct{}{}
			s.Skipped++
			report.Skipped++
		}
		s.Tests++
		report.Tests++
		s.took += o.duration
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
