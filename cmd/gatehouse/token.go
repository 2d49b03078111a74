package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/identity/mint"
)

// localIssuerDir is where the local issuer's keys are where no configuration names others.
const localIssuerDir = ".gatehouse-issuer"

func tokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Create test tokens, and check why a token is refused",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(tokenMintCommand(), tokenWhyCommand())
	return c
}

// tokenWish is what a token to mint shall say.
type tokenWish struct {
	subject, email, issuer, typ string
	roles, groups, scopes       []string
	audiences, claims           []string
	lifetime                    time.Duration
	config, dir                 string
}

func tokenMintCommand() *cobra.Command {
	var w tokenWish
	c := &cobra.Command{
		Use:   "mint --sub NAME",
		Short: "Create a token signed with a local key, for demos, examples and development",
		Long: `Prints a token of a local issuer: a key pair in a folder, created at first use. The issuer's name must be on loopback
(http://localhost, http://127.0.0.1, http://[::1]); tokens of other issuers cannot be made.

With --config, the entry below identity.jwt whose issuer is on loopback sets the name, the audience, the claims
for roles, groups and scopes, and the folder, which is that of its keys.file.`,
		Example: `  gatehouse token mint --sub u1 --role admin --config gatehouse.yaml
  curl -H "Authorization: Bearer $(gatehouse token mint --sub u1 --aud orders)" http://localhost:8080/orders`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return w.mint(c.OutOrStdout(), c.ErrOrStderr()) },
	}
	f := c.Flags()
	f.StringVar(&w.subject, "sub", "", "subject of the token (required)")
	f.StringArrayVar(&w.roles, "role", nil, "a role; may be repeated")
	f.StringArrayVar(&w.groups, "group", nil, "a group; may be repeated")
	f.StringArrayVar(&w.scopes, "scope", nil, "a scope; may be repeated")
	f.StringVar(&w.email, "email", "", "e-mail address, as verified")
	f.StringArrayVar(&w.claims, "claim", nil, "name=value, an additional claim; JSON if the value is valid JSON, else a string; may be repeated")
	f.StringArrayVar(&w.audiences, "aud", nil, "audience; may be repeated (default: the first of the configuration's)")
	f.StringVar(&w.issuer, "iss", "", "issuer, on loopback (default: the configuration's, or "+mint.LocalIssuerName+")")
	f.StringVar(&w.typ, "typ", "", "the header's typ (default: the configuration's, or JWT)")
	f.DurationVar(&w.lifetime, "lifetime", time.Hour, "lifetime of the token")
	f.StringVarP(&w.config, "config", "c", "", "configuration file")
	f.StringVar(&w.dir, "dir", "", "folder of the key pair (default: where the configuration's keys.file is, or "+localIssuerDir+")")
	return c
}

func (w *tokenWish) mint(stdout, stderr io.Writer) error {
	if w.subject == "" {
		return usageError{errors.New("whom is the token about? give --sub NAME")}
	}
	entry, err := w.entry()
	if err != nil {
		return err
	}
	claims, err := w.body(entry)
	if err != nil {
		return usageError{err}
	}
	issuer, err := mint.OpenLocalIssuer(w.dir, w.issuer)
	if err != nil {
		return err
	}
	token, err := issuer.Mint(w.typ, claims, time.Now(), w.lifetime)
	if err != nil {
		return usageError{err}
	}
	if issuer.Made() {
		fmt.Fprintf(stderr, "made the key pair of a local issuer in %s\n", w.dir)
		if w.config == "" {
			fmt.Fprintf(stderr, "to have its tokens accepted:\nidentity:\n  jwt:\n    - {issuer: %q, audiences: [%s], keys: {file: %s}}\n",
				w.issuer, strings.Join(w.audiences, ", "), issuer.Set())
		}
	}
	fmt.Fprintln(stdout, token)
	return nil
}

// entry finds the configuration's entry that the token is for, and takes from it what no flag says.
func (w *tokenWish) entry() (config.JWT, error) {
	var entry config.JWT
	if w.config != "" {
		cfg, _, err := config.Source{File: w.config}.Read()
		if err != nil {
			return entry, err
		}
		if entry, err = localEntry(cfg.Identity.JWT, w.issuer); err != nil {
			return entry, fmt.Errorf("%s: %w", w.config, err)
		}
		if len(w.audiences) == 0 && len(entry.Audiences) > 0 {
			w.audiences = entry.Audiences[:1]
		}
		w.issuer = entry.Issuer
		if w.typ == "" {
			w.typ = entry.Type
		}
		if w.dir == "" && entry.Keys.File != "" {
			w.dir = filepath.Dir(entry.Keys.File)
		}
	}
	if w.issuer == "" {
		w.issuer = mint.LocalIssuerName
	}
	if w.dir == "" {
		w.dir = localIssuerDir
	}
	if len(w.audiences) == 0 && len(entry.ClientIDs) == 0 {
		return entry, usageError{errors.New("the token needs an audience: give --aud, or --config with an issuer on loopback")}
	}
	return entry, nil
}

// localEntry is the one entry with an issuer on loopback, or with this issuer.
func localEntry(all []config.JWT, issuer string) (config.JWT, error) {
	local := slices.DeleteFunc(slices.Clone(all), func(j config.JWT) bool {
		return issuer != "" && j.Issuer != issuer || issuer == "" && !mint.IsLoopback(j.Issuer)
	})
	switch {
	case len(local) == 1:
		return local[0], nil
	case len(local) > 1:
		return config.JWT{}, errors.New("several issuers are on loopback: name one with --iss")
	case issuer != "":
		return config.JWT{}, fmt.Errorf("no entry of identity.jwt has the issuer %q", issuer)
	}
	return config.JWT{}, fmt.Errorf("no entry of identity.jwt has an issuer on loopback, such as %s", mint.LocalIssuerName)
}

// body puts everything under the claims that the entry reads.
func (w *tokenWish) body(entry config.JWT) (map[string]any, error) {
	claims := map[string]any{"sub": w.subject}
	switch {
	case len(w.audiences) == 1:
		claims["aud"] = w.audiences[0]
	case len(w.audiences) > 1:
		claims["aud"] = w.audiences
	}
	if len(entry.ClientIDs) > 0 {
		claims["client_id"] = entry.ClientIDs[0]
	}
	if entry.TokenUse != "" {
		claims["token_use"] = entry.TokenUse
	}
	var errs []error
	put := func(flag, path, fallback string, value any) {
		if path == "" {
			path = fallback
		}
		if err := putClaim(claims, path, value); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if w.roles != nil {
		put("role", entry.Claims.Roles, "roles", w.roles)
	}
	if w.groups != nil {
		put("group", entry.Claims.Groups, "groups", w.groups)
	}
	if w.scopes != nil {
		put("scope", entry.Claims.Scopes, "scope", strings.Join(w.scopes, " "))
	}
	if w.email != "" {
		put("email", entry.Claims.Email, "email", w.email)
		claims["email_verified"] = true
	}
	for _, claim := range w.claims {
		name, text, ok := strings.Cut(claim, "=")
		if !ok || name == "" {
			errs = append(errs, fmt.Errorf("--claim %q: write name=value", claim))
			continue
		}
		claims[name] = claimValue(text)
	}
	return claims, errors.Join(errs...)
}

// claimValue is JSON where the text is JSON, else the text.
func claimValue(text string) any {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var value any
	if d.Decode(&value) == nil && !d.More() {
		return value
	}
	return text
}

// putClaim sets the claim that the first of a configuration's paths leads to (identity.ClaimPaths).
func putClaim(claims map[string]any, paths string, value any) error {
	path := paths
	if fields := strings.Fields(paths); len(fields) > 0 {
		path = fields[0]
	}
	if name, ok := strings.CutPrefix(path, "*/"); ok {
		path = mint.LocalIssuerName + "/" + name
	}
	if u, err := url.Parse(path); err == nil && u.Scheme != "" && u.Host != "" {
		claims[path] = value
		return nil
	}
	at := claims
	names := strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		inner, ok := at[name].(map[string]any)
		if !ok && at[name] != nil {
			return fmt.Errorf("claim %q is no object, so %q cannot be in it", name, path)
		}
		if !ok {
			inner = map[string]any{}
			at[name] = inner
		}
		at = inner
	}
	at[names[len(names)-1]] = value
	return nil
}
