package bounds

import (
	"fmt"
	"strings"
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

const builtinsDirectory = `
## The directory

These ask the directory of users, groups and relations, as it was when the request came.

| built-in | answers |
|---|---|
| ` + "`ds.check`, `ds.check_relation`, `ds.check_permission`" + ` | true or false, as in policies for Topaz |
| ` + "`ds.checks`, `ds.object`, `ds.relation`, `ds.relations`, `ds.graph`, `ds.user`, `ds.identity`" + ` | as in policies for Topaz |
| ` + "`gatehouse.check(\"doc:7\", \"can_read\", \"user:alice\")`" + ` | true or false: object, relation or permission, subject |
| ` + "`gatehouse.why(object, relation, subject)`" + ` | whether, and by which path or what is missing |
| ` + "`gatehouse.who(object, relation, type)`" + ` | the ids of the subjects of a type that have it, sorted |
| ` + "`gatehouse.what(subject, relation, type)`" + ` | the ids of the objects of a type to which the subject has it, sorted |

- A question that cannot be answered (an unknown type or relation, a limit) ends the decision: ` + "`policy_error`" + `, never undefined, because
  ` + "`not ds.check(...)`" + ` would turn that into an allow.
- Without a directory a question is undefined where that can only deny. Where a policy could allow for want of an answer (under ` + "`not`" + `, in a
  comprehension or ` + "`every`" + `, where a default, an ` + "`else`" + ` or another value takes over) it ends the decision as well.
- An evaluation asks at most 1,000 questions. The first 64, and about 8 KiB of them, go into the decision log with their answers.
- A decision that asked is remembered, and its questions are asked again when the directory has changed (docs/decisions/0014-memo-directory.md).
`

// Page returns docs/builtins.md.
func Page() string {
	var out strings.Builder
	out.WriteString(builtinsIntro)
	for _, row := range Table() {
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", row.Name, row.Kind, row.Why)
	}
	out.WriteString(builtinsDirectory)
	return out.String()
}
