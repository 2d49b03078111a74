package server

import (
	"cmp"
	"fmt"
	"io"

	"gatehouse/policy/bundle"
	"gatehouse/terminal"
)

// Write tells the findings about a configuration of this name: problems on out, the rest on notes.
func (f *Findings) Write(out, notes io.Writer, name string, asJSON bool) error {
	if asJSON {
		shown := struct {
			Valid    bool     `json:"valid"`
			Problems []string `json:"problems"`
			Waiting  string   `json:"waiting,omitempty"` // what serve would wait for
			Notices  []string `json:"notices"`
		}{Valid: len(f.Problems) == 0, Problems: []string{}, Notices: append([]string{}, f.Notices...)}
		for _, p := range f.Problems {
			shown.Problems = append(shown.Problems, p.Error())
		}
		if f.Waiting != nil {
			shown.Waiting = f.Waiting.Error()
		}
		return terminal.JSON(out).Encode(shown)
	}
	for _, notice := range f.Notices {
		fmt.Fprintln(notes, "notice: "+terminal.Visible(notice))
	}
	if f.Waiting != nil {
		fmt.Fprintln(notes, "notice: the policy was not checked, serve would wait for it: "+terminal.VisibleLines(f.Waiting.Error()))
	}
	name = cmp.Or(name, "the configuration")
	text := name + " is fine\n"
	if len(f.Problems) > 0 {
		text = fmt.Sprintf("%s has %s\n", name, terminal.Count(len(f.Problems), "problem"))
	}
	for _, p := range f.Problems {
		text += terminal.VisibleLines(bundle.Excerpts(p)) + "\n"
	}
	_, err := io.WriteString(out, text)
	return err
}
