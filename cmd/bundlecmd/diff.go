package bundlecmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/bundler"
	"gatehouse/bundles/tarball"
	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/policy/bundle"
	"gatehouse/terminal"
	"gatehouse/trial"
	"gatehouse/trial/node"
)

// diffFlags are those of gatehouse bundle diff.
type diffFlags struct {
	ImageFlags
	config   string
	name     string
	requests []string
	limit    int
	output   grammar.Output
}

func bundleDiffCommand() *cobra.Command {
	var f diffFlags
	c := &cobra.Command{
		Use:   "diff BEFORE AFTER",
		Short: "Compare two bundles: rules, data, and decisions",
		Long: `Shows the rules and the data that differ between two bundles, each a directory, a tarball or an image. Comments,
white space and the order of rules are ignored. With tables of requests, in the format of gatehouse test, it shows every decision that
would change; the expectations in the tables are ignored.

Exit code: 0 no decision changes, 1 a decision would change, 2 the comparison failed.`,
		Example: `  gatehouse bundle diff registry.example.com/policies/app:1.4 ./policy
  gatehouse bundle diff registry.example.com/policies/app:1.4 ./policy --config gatehouse.yaml --requests tests.yaml`,
		Args: grammar.Arguments("gatehouse bundle diff registry.example.com/policies/app:1.4 ./policy", 2),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := f.diff(c, args[0], args[1])
			if err == nil {
				err = d.write(c.OutOrStdout(), f.output.JSON())
			}
			if err != nil {
				return err // exit code 1 is a decision that would change
			}
			if len(d.Decisions) > 0 {
				return grammar.ErrReported
			}
			return nil
		},
	}
	f.AddStore(c)
	f.AddRegistry(c)
	flags := c.Flags()
	flags.StringArrayVar(&f.requests, "requests", nil, "file or directory with tables of requests; may be repeated")
	flags.StringVarP(&f.config, "config", "c", "", "configuration to decide the requests with (default: gatehouse.yaml, if it exists)")
	flags.StringVar(&f.name, "name", "", "the configuration's bundle to compare, if it has several")
	flags.IntVar(&f.limit, "limit", 20, "number of data changes to show")
	f.output.Add(c, "one object")
	return c
}

// bundleDiff is what diff --json prints.
type bundleDiff struct {
	*bundle.Difference
	Requests  int              `json:"requests,omitempty"` // that were tried
	Decisions []decisionChange `json:"decisions,omitempty"`
}

// decisionChange is a request that is answered in another way.
type decisionChange struct {
	File   string       `json:"file"`
	Line   int          `json:"line"`
	Name   string       `json:"name"`
	Before trial.Result `json:"before"`
	After  trial.Result `json:"after"`

	text string // before and after, for people
}

func (f *diffFlags) diff(c *cobra.Command, before, after string) (*bundleDiff, error) {
	if f.limit < 0 {
		return nil, errors.New("--limit is not negative")
	}
	var sides [2]*bundler.Bundle
	var read [2]*bundle.Bundle
	for i, arg := range []string{before, after} {
		var err error
		if sides[i], err = f.OpenBundle(c.Context(), arg, bundler.Pulled); err != nil {
			return nil, err
		}
		if read[i], err = bundle.Read(sides[i].Name, tarball.Tree(sides[i].Files), bundle.Limits{}); err != nil {
			return nil, err
		}
	}
	d := &bundleDiff{Difference: bundle.Diff(read[0], read[1], f.limit)}
	if len(f.requests) == 0 {
		return d, nil
	}
	_, files, err := trial.FindFiles("", f.requests)
	if err != nil {
		return nil, err
	}
	tests, _, err := trial.ReadFiles(files, true) // none of those that are named is left out
	if err == nil && len(tests) == 0 {
		err = fmt.Errorf("there are no requests in %s", strings.Join(f.requests, ", "))
	}
	if err != nil {
		return nil, err
	}
	d.Requests = len(tests)
	d.Decisions, err = f.decisions(c, sides, tests)
	return d, err
}

// decisions puts every request to both bundles.
func (f *diffFlags) decisions(c *cobra.Command, sides [2]*bundler.Bundle, tests []*trial.Test) (changes []decisionChange, err error) {
	temp, err := os.MkdirTemp("", "gatehouse-diff-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	var trials [2]*node.Node
	for i, side := range sides {
		if trials[i], err = f.trial(c, side, filepath.Join(temp, fmt.Sprint(i)+".tar.gz")); err != nil {
			return nil, err
		}
		defer trials[i].Close()
	}
	differ, err := node.Compare(c.Context(), trials, tests)
	if err != nil {
		return nil, err
	}
	for _, x := range differ {
		changes = append(changes, decisionChange{File: x.Test.File, Line: x.Test.Line, Name: x.Test.Name, text: trial.Line(&x.Before) + " -> " + trial.Line(&x.After),
			Before: trial.ResultOf(&x.Test.Request, &x.Before), After: trial.ResultOf(&x.Test.Request, &x.After)})
	}
	return changes, nil
}

// trial is the configuration with the bundle in it.
func (f *diffFlags) trial(c *cobra.Command, o *bundler.Bundle, temp string) (*node.Node, error) {
	file := o.Path
	if file == "" {
		file = temp
		if err := os.WriteFile(temp, o.Image.Tarball(), 0o600); err != nil {
			return nil, err
		}
	}
	src := config.Source{File: f.config}
	if _, err := os.Stat("gatehouse.yaml"); err == nil && f.config == "" {
		src.File = "gatehouse.yaml"
	}
	if src.File == "" {
		src.Bundle = file
	}
	var misplaced error
	t, err := node.New(c.Context(), src, nil, func(cfg *config.Config) {
		cfg.DryRun = config.DryRun{} // what is compared is the verdict
		misplaced = node.ReplaceBundle(cfg, f.name, file)
	}, grammar.Notices(c.ErrOrStderr()))
	if misplaced != nil {
		if err == nil {
			t.Close()
		}
		return nil, misplaced
	}
	return t, err
}

func (d *bundleDiff) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return terminal.JSON(w).Encode(d)
	}
	var b strings.Builder
	for _, r := range d.Rules {
		fmt.Fprintf(&b, "rule  %-7s  %s: %s\n", r.Change, r.Path, places(r))
	}
	for _, part := range []struct {
		name    string
		changes []bundle.DataChange
	}{{"data", d.Data}, {"manifest", d.Manifest}} {
		for _, change := range part.changes {
			fmt.Fprintf(&b, "%s  %-7s  %s: %s\n", part.name, change.Change, change.Pointer, strings.Trim(change.Before+" -> "+change.After, " "))
		}
	}
	if d.MoreData > 0 {
		fmt.Fprintf(&b, "data  and %d more: --limit shows them\n", d.MoreData)
	}
	for _, change := range d.Decisions {
		fmt.Fprintf(&b, "decision  %s:%d: %s: %s\n", change.File, change.Line, change.Name, change.text)
	}
	if d.Empty() {
		b.WriteString("no rule and no data differ\n")
	}
	if d.Requests > 0 {
		fmt.Fprintf(&b, "%d of %d decisions would change\n", len(d.Decisions), d.Requests)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// places says where the definitions are that the one bundle has and the other has not.
func places(r bundle.RuleChange) string {
	list := func(places []bundle.Place) string {
		var all []string
		for _, p := range places {
			all = append(all, p.String())
		}
		return strings.Join(all, ", ")
	}
	return strings.Trim(list(r.Before)+" -> "+list(r.After), " ")
}
