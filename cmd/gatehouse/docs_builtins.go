package main

import (
	"fmt"
	"strings"

	"gatehouse/policy/bounds"
)

const builtinsIntro = `# What each built-in function may cost

<!-- Generated from the table in policy/bounds/table.go by: gatehouse docs builtins. -->

No request overflows the stack, takes gigabytes or outlasts ` + "`policy.timeout`" + `, whatever a policy does with it. Each built-in of the Open
Policy Agent that is linked is bounded in one of these ways; a test fails for one that is not in the table.

| | |
|---|---|
| bounded | time and memory grow with its operands, and it does not recurse deeper than they are nested |
| limited | operands, or what would come of them, are held to a limit before the call |
| replaced | an implementation of our own gives the same result in bounded time |
| apart | large calls run on a goroutine of their own, which is given up at the deadline |
| waits | it waits for others, by the evaluation's deadline |

What exceeds a limit ends the decision: ` + "`policy_error`" + `, never undefined, so that a request cannot switch off a rule that denies by being too
large. A call that is given up at the deadline is answered as ` + "`timeout`" + ` and counted in ` + "`gatehouse_policy_abandoned`" + ` until it ends and in
` + "`gatehouse_policy_abandoned_total`" + `. While more than twice as many as there are processors (at least 4) are under way, large calls are not begun:
` + "`overloaded`" + `, counted in ` + "`gatehouse_policy_abandoned_refused_total`" + `; small calls and policies that make none go on.

| built-in | | how |
|---|---|---|
`

func builtinsPage() string {
	var out strings.Builder
	out.WriteString(builtinsIntro)
	for _, row := range bounds.Table() {
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", row.Name, row.Kind, row.Why)
	}
	return out.String()
}
