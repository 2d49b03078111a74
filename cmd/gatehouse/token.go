package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/identity/mint"
	"gatehouse/report"
	"gatehouse/terminal"
	"gatehouse/trial/tokens"
)

func tokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Create test tokens, and check why a token is refused",
	}
	return grammar.Family(c, tokenMintCommand(), tokenWhyCommand())
}

// tokenRequest is what a token to mint shall say.
type tokenRequest struct {
	tokens.Token
	expires grammar.Expiry
	output  grammar.Output
}

func tokenMintCommand() *cobra.Command {
	var w tokenRequest
	c := &cobra.Command{
		Use:   "mint --sub NAME",
		Short: "Create a token signed with a local key, for demos, examples and development",
		Long: `Prints a token of a local issuer: a key pair in a folder, created at first use. The issuer's name must be on loopback
(http://localhost, http://127.0.0.1, http://[::1]); tokens of other issuers cannot be made.

The entry of the configuration below identity.jwt whose issuer is on loopback sets the name, the audience, the claims
for roles, groups and scopes, and the folder, which is that of its keys.file.`,
		Example: `  gatehouse token mint --sub u1 --role admin --config gatehouse.yaml
  curl -H "Authorization: Bearer $(gatehouse token mint --sub u1 --aud orders)" http://localhost:8080/orders`,
		Args: grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error { return w.mint(c.OutOrStdout(), c.ErrOrStderr()) },
	}
	f := c.Flags()
	f.StringVar(&w.Subject, "sub", "", "subject of the token (required)")
	f.StringArrayVar(&w.Roles, "role", nil, "a role; may be repeated")
	f.StringArrayVar(&w.Groups, "group", nil, "a group; may be repeated")
	f.StringArrayVar(&w.Scopes, "scope", nil, "a scope; may be repeated")
	f.StringVar(&w.Email, "email", "", "e-mail address, as verified")
	f.StringArrayVar(&w.Claims, "claim", nil, "name=value, an additional claim; JSON if the value is valid JSON, else a string; may be repeated")
	f.StringArrayVar(&w.Audiences, "aud", nil, "audience; may be repeated (default: the first of the configuration's)")
	f.StringVar(&w.Issuer, "iss", "", "issuer, on loopback (default: the configuration's, or "+mint.LocalIssuerName+")")
	f.StringVar(&w.Type, "typ", "", "the header's typ (default: the configuration's, or JWT)")
	w.expires = grammar.ExpiresIn(time.Hour)
	w.expires.Add(c, "when the token ends", "lifetime")
	w.output.Add(c, "one object")
	f.StringVarP(&w.Config, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
	f.StringVar(&w.Dir, "dir", "", "folder of the key pair (default: where the configuration's keys.file is, or "+tokens.LocalIssuerDir+")")
	return c
}

func (w *tokenRequest) mint(stdout, stderr io.Writer) error {
	if w.Subject == "" {
		return errors.New("whom is the token about? give --sub NAME")
	}
	entry, err := w.Entry()
	if errors.Is(err, tokens.ErrNoAudience) {
		return err
	} else if err != nil {
		return err
	}
	claims, err := w.Body(entry)
	if err != nil {
		return err
	}
	issuer, err := mint.OpenLocalIssuer(w.Dir, w.Issuer)
	if err != nil {
		return err
	}
	now := time.Now()
	life, err := w.expires.Lifetime(now)
	if err != nil {
		return err
	}
	token, err := issuer.Mint(w.Type, claims, now, life)
	if err != nil {
		return err
	}
	if issuer.Made() {
		fmt.Fprintf(stderr, "made the key pair of a local issuer in %s\n", w.Dir)
		if w.Config == "" {
			fmt.Fprintf(stderr, "to have its tokens accepted:\nidentity:\n  jwt:\n    - {issuer: %q, audiences: [%s], keys: {file: %s}}\n",
				w.Issuer, strings.Join(w.Audiences, ", "), issuer.Set())
		}
	}
	if w.output.JSON() {
		return terminal.JSON(stdout).Encode(map[string]any{"token": token, "issuer": w.Issuer, "subject": w.Subject, "audiences": w.Audiences, "lifetime_seconds": int64(life.Seconds())})
	}
	fmt.Fprintln(stdout, token)
	return nil
}

func tokenWhyCommand() *cobra.Command {
	var src config.Source
	var at string
	var output grammar.Output
	c := &cobra.Command{
		Use:   "why [TOKEN | @FILE | -]",
		Short: "Show which check a token fails, and what was expected",
		Long: `Verifies a token like gatehouse serve with the same configuration, and prints every check with the token's value and
the accepted values. The token is read from standard input, or from a file. As an argument it would be visible in the
shell's history and in the process list.

Shown are issuer, audience, client, key id, algorithm, type, times and the names of the claims; for an accepted token
also the identity. The token, its signature and other claims are never shown. Keys at a URL are fetched.

Exit code: 0 accepted, 1 refused, 2 the check could not run.`,
		Example: `  pbpaste | gatehouse token why
  gatehouse token why @token.txt --config gatehouse.yaml --at 2026-06-01T12:00:00Z`,
		Args: grammar.Arguments("", 0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			argument := "-"
			if len(args) == 1 {
				argument = args[0]
			}
			accepted, err := explainToken(c, src, argument, at, &output)
			if err != nil {
				return err
			}
			if !accepted {
				return grammar.ErrReported
			}
			return nil
		},
	}
	c.Flags().StringVarP(&src.File, "config", "c", "", "configuration file (default: gatehouse.yaml)")
	output.Add(c, "one object")
	c.Flags().StringVar(&at, "at", "", "the time to verify at, such as 2026-06-01T12:00:00Z (default: now)")
	return c
}

func explainToken(c *cobra.Command, src config.Source, argument, at string, output *grammar.Output) (accepted bool, err error) {
	clock := time.Now
	if at != "" {
		moment, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return false, fmt.Errorf("--at %q: write it as 2026-06-01T12:00:00Z", at)
		}
		clock = func() time.Time { return moment }
	}
	if src, err = src.OrDefault(); err != nil {
		return false, errors.New("there is no gatehouse.yaml here: give --config FILE")
	}
	raw, err := tokens.Read(c.InOrStdin(), c.ErrOrStderr(), argument)
	if err != nil {
		return false, err
	}
	e, keys, err := tokens.Explain(c.Context(), likeUp(c.ErrOrStderr(), src), raw, clock)
	if err != nil {
		return false, err
	}
	accepted = e.Err == nil && e.Identity.Authenticated
	if output.JSON() {
		return accepted, terminal.JSON(c.OutOrStdout()).Encode(report.TokenVerdict(&e, accepted))
	}
	out := bufio.NewWriter(c.OutOrStdout())
	report.Token(out, e, keys)
	return accepted, out.Flush()
}
