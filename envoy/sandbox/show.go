package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"gatehouse/terminal"
)

// Show prints the transcript for people.
type Show struct{ terminal.Printer }

// Heading prints what is to come.
func (p Show) Heading(text string) { fmt.Fprintln(p.W, p.Paint(terminal.Bold, text)) }

// Note prints what goes on.
func (p Show) Note(text string) { fmt.Fprintln(p.W, p.Paint(terminal.Faint, "  "+text)) }

// Gap prints an empty line.
func (p Show) Gap() { fmt.Fprintln(p.W) }

// Line prints a line of the transcript.
func (p Show) Line(l Line) {
	const titleWidth = 30
	title := l.Title + strings.Repeat(" ", max(0, titleWidth-utf8.RuneCountInString(l.Title)))
	if l.Command == "" {
		fmt.Fprintf(p.W, "%s      %s %s\n", p.Paint(terminal.Amber, "*"), p.Paint(terminal.Bold, title), l.Reason)
		return
	}
	mark, status := p.Paint(terminal.Green, "✓"), p.Paint(terminal.Green, fmt.Sprint(l.Got))
	if !l.OK() {
		mark, status = p.Paint(terminal.Red, "✗"), p.Paint(terminal.Red, fmt.Sprint(l.Got))
		l.Reason = fmt.Sprintf("expected %d: %s", l.Want, l.Reason)
	}
	fmt.Fprintf(p.W, "%s %s  %s %s\n", mark, status, p.Paint(terminal.Bold, title), l.Reason)
	fmt.Fprintf(p.W, "       %s\n", p.Paint(terminal.Faint, l.Command))
}

// Invite says what to try while everything stays up.
func (p Show) Invite(s *Sandbox, env string) {
	p.Gap()
	p.Heading("It all stays up until you press Ctrl-C. In another terminal:")
	if _, err := exec.LookPath("curl"); err != nil {
		p.Note("(curl is not installed here: install it to try these)")
	}
	const row = "  %-44s %s\n"
	p.Gap()
	fmt.Fprintf(p.W, row, ". "+terminal.Path(env), "# $URL and each person's token")
	fmt.Fprintf(p.W, row, `curl -i -H "$VERA" $URL/orders`, "# a viewer")
	fmt.Fprintf(p.W, row, `curl -i -H "$ALICE" $URL/users/bob/orders`, "# not hers")
	fmt.Fprintf(p.W, row, `curl -i -H "$ADA" -X DELETE $URL/orders/1`, "# an admin")
	p.Gap()
	fmt.Fprintf(p.W, row, terminal.Path(s.PolicyDir()), "the policy: save a file and it is in force")
	fmt.Fprintf(p.W, row, terminal.Path(s.DirectoryDir()), "users by the sub of their token, roles, orders: likewise")
	fmt.Fprintf(p.W, row, terminal.Path(s.DecisionLog()), "every decision, one JSON line each")
	fmt.Fprintf(p.W, row, s.AdminURL+"/status", "Gatehouse; also /metrics and /readyz")
	fmt.Fprintf(p.W, row, s.AppURL, "the app with nothing in front of it")
}

// Checkout is the directory, this one or one above, that has the example.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the checkout: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "examples", "flask-orders", "gatehouse.yaml")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("examples/flask-orders not found: run this in a checkout of Gatehouse, or name one with --root")
		}
	}
}
