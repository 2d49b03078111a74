package main

import (
	"fmt"

	"gatehouse/gate"
	"gatehouse/policy/reach"
)

// checkMemo is whether a decision can be remembered and, if not, what is in the way.
type checkMemo struct {
	On       bool       `json:"on"`                 // policy.memo, and the rule can be remembered
	Sound    bool       `json:"sound"`              // the decision depends on nothing but what the policy reads
	Off      string     `json:"off,omitempty"`      // the key that turns it off
	Impure   []checkUse `json:"impure,omitempty"`   // built-ins whose value may be another next time
	Changing []checkUse `json:"changing,omitempty"` // reads of what is another in each request
}

type checkUse struct {
	What string `json:"what"`
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// memoOf tells it of the rule that was asked; nil where none was.
func memoOf(answer *gate.Answer) *checkMemo {
	if answer.Diagnostics.Entry == nil {
		return nil
	}
	found := answer.Diagnostics.Entry.Memoisable()
	out := &checkMemo{Sound: len(found.Impure) == 0, Impure: checkUses(found.Impure), Changing: checkUses(found.Changing)}
	if !answer.Diagnostics.Remembers {
		out.Off = "policy.memo"
	}
	out.On = out.Sound && out.Off == ""
	return out
}

func checkUses(uses []reach.Use) []checkUse {
	var out []checkUse
	for _, u := range uses {
		out = append(out, checkUse{u.What, u.File, u.Line})
	}
	return out
}

func (u checkUse) String() string {
	return reach.Use{What: u.What, File: u.File, Line: u.Line}.String()
}

// text is it in one line, "" where there is nothing to say.
func (m *checkMemo) text() string {
	switch {
	case m == nil:
		return ""
	case m.Off != "":
		return "off: " + m.Off
	case !m.Sound:
		return fmt.Sprintf("not remembered: calls %s%s", m.Impure[0], more(m.Impure))
	case len(m.Changing) > 0:
		return fmt.Sprintf("of little use: reads %s%s, which is hardly the same twice", m.Changing[0], more(m.Changing))
	}
	return "remembered for requests like it"
}

// more says how many there are beyond the first.
func more(uses []checkUse) string {
	if len(uses) < 2 {
		return ""
	}
	return fmt.Sprintf(" and %d more", len(uses)-1)
}
