package replay

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"gatehouse/config"
)

// maxExpect bounds the size of an expect file, in bytes.
const maxExpect = 4 << 20

// expectFile is the file of --expect.
type expectFile struct {
	Expect []Expected `yaml:"expect"`
}

// ReadExpected reads expected changes. All errors of the file are reported at once, each with its line.
func ReadExpected(file string) ([]Expected, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := config.ReadUpTo(file, maxExpect)
	if err != nil {
		return nil, fmt.Errorf("reading expected changes: %w", err)
	}
	return ParseExpected(file, raw)
}

// ParseExpected is ReadExpected for a text.
func ParseExpected(file string, raw []byte) ([]Expected, error) {
	var out expectFile
	d, err := config.DecodeYAML(file, raw, &out)
	if err != nil {
		return nil, err
	}
	if len(d.Errs) == 0 && len(d.Lines) == 0 {
		return nil, fmt.Errorf("%s: there is no key expect: with a list of changes under it, such as\n%s", file, expectExample)
	}
	if len(d.Errs) > 0 { // entries may be missing, which would shift the lines
		return nil, errors.Join(d.Errs...)
	}
	for i := range out.Expect {
		e := &out.Expect[i]
		at := fmt.Sprintf("expect[%d]", i)
		e.Place = d.At(at)
		for key, verdict := range map[string]string{"from": e.From, "to": e.To} {
			if !IsVerdict(verdict) {
				d.Errs = append(d.Errs, fmt.Errorf("%s: %s: %q is not a verdict: write allow, deny, or more of it as in deny 403 denied", d.At(at+"."+key), key, verdict))
			}
		}
		if e.From == "" && e.To == "" {
			d.Errs = append(d.Errs, fmt.Errorf("%s: neither from nor to: that would expect any change, as in\n%s", e.Place, expectExample))
		}
	}
	return out.Expect, errors.Join(d.Errs...)
}

const expectExample = "  expect:\n    - {route: DELETE /orders/{id}, from: allow, to: deny}"

// WriteExpected writes the unexpected changes to a file for ReadExpected.
func WriteExpected(file string, groups []*Group) error {
	var b strings.Builder
	b.WriteString("# Changes that gatehouse replay found, for --expect: delete what is not meant.\nexpect:\n")
	for _, g := range groups {
		if !g.Expected {
			fmt.Fprintf(&b, "  - {route: %q, from: %q, to: %q} # %d\n", g.Route, g.From, g.To, g.Count)
		}
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
