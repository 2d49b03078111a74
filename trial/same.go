package trial

import (
	"reflect"
	"strings"

	"gatehouse/gate"
)

// SameAnswer compares everything that the client or the application can see, but the decision's own number.
func SameAnswer(a, b *gate.Answer) bool {
	x, y := visibleAnswer(a), visibleAnswer(b)
	return reflect.DeepEqual(x, y)
}

func visibleAnswer(a *gate.Answer) gate.Answer {
	out := *a
	out.DecisionID, out.Diagnostics = "", gate.Diagnostics{}
	withoutIDs := func(options []gate.HeaderOption) (list []gate.HeaderOption) {
		for _, h := range options {
			h.Value = withoutID(h.Value, a.DecisionID)
			list = append(list, h)
		}
		return list
	}
	out.Set, out.Response, out.Body = withoutIDs(a.Set), withoutIDs(a.Response), withoutID(a.Body, a.DecisionID)
	return out
}

func withoutID(text, id string) string {
	if id == "" {
		return text
	}
	return strings.ReplaceAll(text, id, "")
}
