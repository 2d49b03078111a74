package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/devstack"
	"gatehouse/gate"
	"gatehouse/report"
	"gatehouse/terminal"
	"gatehouse/trial"
	"gatehouse/trial/node"
)

// maxTry bounds a body or token that comes from a file, in bytes.
const maxTry = 64 << 20

// checkFlags are those of gatehouse check.
type checkFlags struct {
	src     config.Source
	caller  trial.Caller
	claims  string
	token   string
	headers []string
	body    string
	host    string
	output  grammar.Output
	explain bool
	secrets bool
}

func checkCommand() *cobra.Command {
	var f checkFlags
	c := &cobra.Command{
		Use:   "check METHOD PATH",
		Short: "Decide one request, and show why",
		Long: `Decides one request like gatehouse serve with the same configuration. It opens no port and writes nothing
to the decision log. --as, --role and --claims set an unverified caller; --token is verified as usual.

Exit code: 0 allow, 1 deny, 2 error.`,
		Example: `  gatehouse check GET /orders/17 --as u1 --role viewer
  gatehouse check POST /orders --claims alice.json --body '{"amount": 45}' -o json`,
		Args: func(_ *cobra.Command, args []string) error { return checkArguments(args) },
		RunE: func(c *cobra.Command, args []string) error {
			answer, err := f.run(c, args[0], args[1])
			if err != nil {
				return err // exit code 1 is a denial
			}
			if !answer.Allow && !answer.Direct {
				return grammar.ErrReported // that it is denied
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVarP(&f.src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
	flags.StringVarP(&f.src.Bundle, "bundle", "b", "", "policy directory or tarball: with --config in addition to its bundles, else instead of those of gatehouse.yaml")
	flags.StringVar(&f.caller.As, "as", "", "name of the caller, not verified")
	flags.StringArrayVar(&f.caller.Roles, "role", nil, "role of the caller; may be repeated")
	flags.StringVar(&f.claims, "claims", "", "JSON file with the caller's claims, not verified")
	flags.StringVar(&f.token, "token", "", "JSON Web Token, which is verified; @FILE reads it from a file")
	flags.StringArrayVar(&f.headers, "header", nil, "request header 'name: value'; may be repeated")
	flags.StringVar(&f.body, "body", "", "request body; @FILE reads it from a file")
	flags.StringVar(&f.host, "host", "", "host of the request (default localhost)")
	f.output.Add(c, "one object")
	flags.BoolVar(&f.explain, "explain", false, "show which rule allowed, or why each rule did not, and what would be allowed")
	flags.BoolVar(&f.secrets, "show-secrets", false, "with --explain: also show claims and headers that the decision log redacts")
	return c
}

func checkArguments(args []string) error {
	const hint = "\ntry: gatehouse check GET /orders/17 --as u1 --role viewer"
	if len(args) != 2 {
		return fmt.Errorf("give a method and a path, not %s%s", terminal.Count(len(args), "argument"), hint)
	}
	if meant, ok := trial.IsMethod(args[0]); meant != "" {
		return fmt.Errorf("%q is no method: %s is written like this", args[0], meant)
	} else if !ok {
		return fmt.Errorf("%q is no method%s", args[0], hint)
	}
	return nil
}

// run asks and prints. An error says why there is no answer.
func (f *checkFlags) run(c *cobra.Command, method, path string) (*gate.Answer, error) {
	a, err := f.request(method, path)
	if err != nil {
		return nil, err
	}
	src, err := f.src.OrDefault()
	if err != nil {
		return nil, err
	}
	stderr := c.ErrOrStderr()
	src = likeUp(stderr, src)
	t, err := node.New(c.Context(), src, a.Headers, func(*config.Config) {}, grammar.Notices(stderr))
	if err != nil {
		return nil, err
	}
	defer t.Close()
	policyNotices(stderr, t)
	if a.As, err = t.Identity(f.caller); err != nil {
		return nil, err
	}
	if f.claims != "" {
		fmt.Fprintf(stderr, "notice: the claims in %s are taken as they are: nothing verified them\n", f.claims)
	}
	answer := t.Gate.Check(c.Context(), a.Gate())
	for _, text := range t.Hints(a, &answer) {
		grammar.Notices(stderr)(text)
	}
	var why *trial.Explanation
	if f.explain {
		why = t.Explain(c.Context(), a, &answer, f.secrets)
	}
	if f.output.JSON() {
		return &answer, terminal.JSON(c.OutOrStdout()).Encode(resultOf(a, &answer, why))
	}
	if err := report.Answer(c.OutOrStdout(), a, &answer, t.Who(c.Context(), a, &answer)); err != nil || why == nil {
		return &answer, err
	}
	return &answer, report.Explanation(c.OutOrStdout(), why)
}

// likeUp has src decide as the gatehouse up that runs for its folder, if one does, and says so.
func likeUp(stderr io.Writer, src config.Source) config.Source {
	src, running := devstack.LikeRunning(src)
	if running {
		grammar.Notices(stderr)("gatehouse up runs here: tokens of its local issuer are accepted too, as there; gatehouse serve does not accept them")
	}
	return src
}

// request reads the request off the flags.
func (f *checkFlags) request(method, path string) (*trial.Request, error) {
	a := &trial.Request{Method: method, Path: path, Host: f.host}
	for _, line := range f.headers {
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("--header %q is not written as 'name: value'", line)
		}
		a.Headers = append(a.Headers, gate.Header{Name: strings.ToLower(name), Value: strings.TrimSpace(value)})
	}
	var err error
	if a.Body, err = textOrFile(f.body); err != nil {
		return nil, fmt.Errorf("--body: %w", err)
	}
	token, err := textOrFile(f.token)
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	switch {
	case f.token != "" && (f.claims != "" || !f.caller.Empty()):
		return nil, errors.New("--token says who calls: leave out --as, --role and --claims")
	case f.token != "":
		a.Headers = append(a.Headers, gate.Header{Name: "authorization", Value: "Bearer " + strings.TrimSpace(token)})
	case f.claims != "":
		if f.caller.Claims, err = readClaims(f.claims); err != nil {
			return nil, fmt.Errorf("--claims: %w", err)
		}
	case f.caller.As == "" && len(f.caller.Roles) > 0:
		return nil, errors.New("--role needs a caller: add --as NAME")
	}
	return a, nil
}

func textOrFile(value string) (string, error) {
	file, isFile := strings.CutPrefix(value, "@")
	if !isFile {
		return value, nil
	}
	text, err := config.ReadUpTo(file, maxTry)
	return string(text), err
}

func readClaims(file string) (map[string]any, error) {
	text, err := config.ReadBounded(file)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	var claims map[string]any
	if err := d.Decode(&claims); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return nil, fmt.Errorf("%s holds no JSON object but a JSON %s", file, wrong.Value)
		}
		return nil, fmt.Errorf("%s holds no JSON object: %w", file, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || claims == nil {
		return nil, fmt.Errorf("%s holds no JSON object, or something behind it", file)
	}
	return claims, nil
}

// resultOf is an answer for scripts, with the memo and why.
func resultOf(a *trial.Request, answer *gate.Answer, why *trial.Explanation) trial.Result {
	out := trial.ResultOf(a, answer)
	out.Memo, out.Explain = trial.MemoOf(answer), why
	return out
}
