package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"gatehouse/doctor/rules"
	"gatehouse/terminal"
)

// Print writes the report as json, as sarif with the version of the program, or else as text.
func (r *Report) Print(w io.Writer, format, version string) error {
	switch format {
	case "json":
		return r.JSON(w)
	case "sarif":
		return r.SARIF(w, version)
	}
	r.Text(w)
	return nil
}

// PrintMended writes the mended inputs, and to left what is left for a person, which it returns.
func PrintMended(w, left io.Writer, inputs []Input, g rules.Gatehouse) (*Report, error) {
	mended, err := Mend(inputs, g)
	if err != nil {
		return nil, err
	}
	for _, in := range mended {
		if len(mended) > 1 {
			fmt.Fprintf(w, "---\n# %s\n", in.Name)
		}
		fmt.Fprintf(w, "%s", in.Text)
	}
	report, err := Examine(mended, g)
	if err == nil && len(report.Findings) > 0 {
		fmt.Fprintln(left, "left for you to mend, with the lines of what was printed:")
		report.Text(left)
	}
	return report, err
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer) {
	counts := map[rules.Severity]int{}
	for _, f := range r.Findings {
		counts[f.Severity]++
		fmt.Fprintf(w, "%s: %s: %s [%s]\n", terminal.Visible(place(f)), f.Severity, terminal.Visible(f.Message), f.ID)
		fmt.Fprintf(w, "    %s\n    mend: %s\n", f.Risk, f.Mend)
	}
	names := terminal.Visible(strings.Join(r.Inputs, ", "))
	if len(r.Inputs) > 3 {
		names = fmt.Sprintf("%d files", len(r.Inputs))
	}
	if len(r.Findings) == 0 {
		fmt.Fprintf(w, "%s: nothing found; Gatehouse is asked in %s\n", names, terminal.Count(r.Asking, "place"))
		return
	}
	fmt.Fprintf(w, "%s: %s, %s, %s; %s explains each, --fix prints the mended configuration\n", names, terminal.Count(counts[rules.Error], "error"),
		terminal.Count(counts[rules.Warning], "warning"), terminal.Count(counts[rules.Note], "note"), rules.Page)
}

// place is file:line, and the path too where lines say little.
func place(f rules.Finding) string {
	if f.Line <= 1 && f.Path != "" {
		return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Path)
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}

// jsonFinding is a finding in JSON.
type jsonFinding struct {
	ID       string         `json:"id"`
	Severity rules.Severity `json:"severity"`
	File     string         `json:"file"`
	Line     int            `json:"line"`
	Path     string         `json:"path,omitempty"`
	Message  string         `json:"message"`
	Risk     string         `json:"risk"`
	Mend     string         `json:"mend"`
	Page     string         `json:"page"`
	Fixable  bool           `json:"fixable"`
}

// JSON writes the report for programs.
func (r *Report) JSON(w io.Writer) error {
	out := struct {
		Inputs   []string      `json:"inputs"`
		Asking   int           `json:"asking"`
		Findings []jsonFinding `json:"findings"`
	}{r.Inputs, r.Asking, []jsonFinding{}}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, jsonFinding{f.ID, f.Severity, f.File, f.Line, f.Path, f.Message, f.Risk, f.Mend, page(f.ID), f.Fix != nil})
	}
	return write(w, out)
}

func page(id string) string { return rules.Page + "#" + id }

func write(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// What follows is the part of SARIF 2.1.0 that a report needs.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID            string       `json:"id"`
		Short         sarifMessage `json:"shortDescription"`
		Full          sarifMessage `json:"fullDescription"`
		Help          sarifMessage `json:"help"`
		Configuration sarifLevel   `json:"defaultConfiguration"`
	}
	sarifLevel struct {
		Level rules.Severity `json:"level"`
	}
	sarifMessage struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     rules.Severity  `json:"level"`
		Message   sarifMessage    `json:"message"`
		Locations []sarifLocation `json:"locations"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
	}
)

// SARIF writes the report for code scanning.
func (r *Report) SARIF(w io.Writer, version string) error {
	run := sarifRun{Tool: sarifTool{sarifDriver{Name: "gatehouse doctor", Version: version}}, Results: []sarifResult{}}
	index := map[string]int{}
	for i, rule := range rules.All() {
		index[rule.ID] = i
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{rule.ID, sarifMessage{rule.Title}, sarifMessage{rule.Title + ". " + rule.Risk},
			sarifMessage{rule.Mend}, sarifLevel{rule.Severity}})
	}
	for _, f := range r.Findings {
		at := sarifLocation{Physical: sarifPhysical{Artifact: sarifArtifact{uri(f.File)}}}
		if f.Line > 0 {
			at.Physical.Region = &sarifRegion{f.Line}
		}
		if f.Path != "" {
			at.Logical = []sarifLogical{{f.Path}}
		}
		run.Results = append(run.Results, sarifResult{f.ID, index[f.ID], f.Severity, sarifMessage{f.Message + ". " + f.Mend}, []sarifLocation{at}})
	}
	return write(w, sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}

// uri is a file's name as a reference; a URL stays what it is.
func uri(name string) string {
	if strings.Contains(name, "://") {
		return name
	}
	return (&url.URL{Path: filepath.ToSlash(name)}).String()
}
