// Package tokens is the tokens that a configuration accepts: what a token of its local issuer says, and which check a token fails. Behind
// `gatehouse token`. It may import edge, config and identity.
package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/identity"
	"gatehouse/identity/mint"
)

// LocalIssuerDir is where the local issuer's keys are where no configuration names others.
const LocalIssuerDir = ".gatehouse-issuer"

// ErrNoAudience is of a token that no application would accept.
var ErrNoAudience = errors.New("the token needs an audience: give --aud, or --config with an issuer on loopback")

// Token is what a token to mint shall say.
type Token struct {
	Subject, Email, Issuer, Type string
	Roles, Groups, Scopes        []string
	Audiences, Claims            []string // claims: name=value
	Config, Dir                  string   // the configuration that accepts it, and the folder of the key pair; Entry sets what is empty
}

// Entry finds the entry, in the configuration or else in gatehouse.yaml in this folder, that the token is for, and takes from it what no flag says.
func (w *Token) Entry() (config.JWT, error) {
	var entry config.JWT
	src, err := config.Source{File: w.Config}.OrDefault()
	if err == nil {
		cfg, _, err := src.Read()
		if err != nil {
			return entry, err
		}
		entry, err = localEntry(cfg.Identity.JWT, w.Issuer)
		if err != nil && (w.Config != "" || len(w.Audiences) == 0) {
			return entry, fmt.Errorf("%s: %w", src.File, err)
		}
		if err == nil {
			w.Config = src.File
		}
	}
	if w.Config != "" {
		if len(w.Audiences) == 0 && len(entry.Audiences) > 0 {
			w.Audiences = entry.Audiences[:1]
		}
		w.Issuer = entry.Issuer
		if w.Type == "" {
			w.Type = entry.Type
		}
		if w.Dir == "" && entry.Keys.File != "" {
			w.Dir = filepath.Dir(entry.Keys.File)
		}
	}
	if w.Issuer == "" {
		w.Issuer = mint.LocalIssuerName
	}
	if w.Dir == "" {
		w.Dir = LocalIssuerDir
	}
	if len(w.Audiences) == 0 && len(entry.ClientIDs) == 0 {
		return entry, ErrNoAudience
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

// Body puts everything under the claims that the entry reads.
func (w *Token) Body(entry config.JWT) (map[string]any, error) {
	claims := map[string]any{"sub": w.Subject}
	switch {
	case len(w.Audiences) == 1:
		claims["aud"] = w.Audiences[0]
	case len(w.Audiences) > 1:
		claims["aud"] = w.Audiences
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
	if w.Roles != nil {
		put("role", entry.Claims.Roles, "roles", w.Roles)
	}
	if w.Groups != nil {
		put("group", entry.Claims.Groups, "groups", w.Groups)
	}
	if w.Scopes != nil {
		put("scope", entry.Claims.Scopes, "scope", strings.Join(w.Scopes, " "))
	}
	if w.Email != "" {
		put("email", entry.Claims.Email, "email", w.Email)
		claims["email_verified"] = true
	}
	for _, claim := range w.Claims {
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

// Explain builds the configuration's verifier for this one question. It keeps nothing: what the service keeps is its own.
func Explain(ctx context.Context, src config.Source, raw string, clock func() time.Time) (identity.Explanation, []identity.KeyStatus, error) {
	cfg, doc, err := src.Read()
	if err != nil {
		return identity.Explanation{}, nil, err
	}
	found := doc.Problems()
	cfg.StateDir = ""
	vc := edge.VerifierConfig(cfg, zap.NewNop(), prometheus.NewRegistry())
	vc.Clock = clock
	v, err := identity.New(vc)
	found.Add("identity", edge.WithKeys(err))
	if len(found.Errs) > 0 {
		return identity.Explanation{}, nil, errors.Join(found.Errs...)
	}
	if !v.Configured() {
		return identity.Explanation{}, nil, fmt.Errorf("%s accepts no credential: see docs/identity.md for the identity section", src.File)
	}
	keys, err := v.Load(ctx)
	if err != nil {
		found.Add("identity", edge.WithKeys(err))
		return identity.Explanation{}, nil, errors.Join(found.Errs...)
	}
	return v.Explain(ctx, keys, v.RequestWith(raw)), keys.Status(), nil
}
