package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Token is a service token without its secret.
type Token struct {
	ID, Name                      string
	Scopes                        []string // admin, or a kind of scopeKinds with what it is for: read:project/name, push:project
	CreatedBy                     string
	CreatedAt, ExpiresAt, Revoked time.Time // Revoked zero: it is not
}

// ScopeAdmin allows everything.
const ScopeAdmin = "admin"

// The scopes of an identity provider: with the first it writes users and groups of an environment through SCIM, with the
// second as well it may link users that another source wrote.
const (
	ScopeScim     = "scim"
	ScopeScimLink = "scim-link"
)

// MayScim reports whether the token is a provider's for an environment, and whether it may link users there.
func (t *Token) MayScim(environment string) (may, link bool) {
	return slices.Contains(t.Scopes, ScopeScim+":"+environment), slices.Contains(t.Scopes, ScopeScimLink+":"+environment)
}

// Errors of a token that is presented. None of them says to its bearer more than that it is refused.
var errToken = fmt.Errorf("%w: the token is unknown, expired or revoked", ErrRefused)

// Actor is the token's name in the log of changes.
func (t *Token) Actor() string { return t.Name + " (" + t.ID + ")" }

// The kinds of scopes: what they allow in an environment, and push in a project.
const (
	ScopeRead    = "read"    // the directory and the policy of an environment
	ScopeWrite   = "write"   // the directory of an environment
	ScopePromote = "promote" // an environment's policy
	ScopePush    = "push"    // a project's revisions
	ScopeAudit   = "audit"   // the decisions of an environment, which read and write do not show
)

// May reports whether the token allows to read or write an environment.
func (t *Token) May(write bool, environment string) bool {
	return t.Has(ScopeWrite, environment) || !write && t.Has(ScopeRead, environment)
}

// Has reports whether the token has a scope, or all.
func (t *Token) Has(kind, subject string) bool {
	return slices.ContainsFunc(t.Scopes, func(s string) bool { return s == ScopeAdmin || s == kind+":"+subject })
}

// MayPush reports whether the token may push to some project.
func (t *Token) MayPush() bool {
	return slices.ContainsFunc(t.Scopes, func(s string) bool { return s == ScopeAdmin || strings.HasPrefix(s, ScopePush+":") })
}

// MaySee reports whether the token allows to see a project's policies: it may push, promote or read there.
func (t *Token) MaySee(project string) bool {
	return slices.ContainsFunc(t.Scopes, func(s string) bool {
		kind, subject, _ := strings.Cut(s, ":")
		of, _, _ := strings.Cut(subject, "/")
		return s == ScopeAdmin || of == project && (kind == ScopePush || kind == ScopePromote || kind == ScopeRead)
	})
}

// Only is the one environment that the token is for; "": it is for several, or for all.
func (t *Token) Only() (environment string) {
	for _, s := range t.Scopes {
		kind, name, ok := strings.Cut(s, ":")
		if kind == ScopePush {
			continue
		}
		if !ok || environment != "" && environment != name {
			return ""
		}
		environment = name
	}
	return environment
}

// Bounds of tokens.
const (
	maxTokens  = 10_000
	maxScopes  = 100
	maxName    = 200
	maxValid   = 10 * 365 * 24 * time.Hour
	tokenValid = 90 * 24 * time.Hour
)

const scopeKinds = "admin, read:, write:, promote:, audit:, scim: and scim-link:project/environment, push:project"

func (s *Store) checkScopes(scopes []string) error {
	if len(scopes) == 0 || len(scopes) > maxScopes {
		return fmt.Errorf("%w: give 1 to %d scopes: %s", ErrInvalid, maxScopes, scopeKinds)
	}
	for _, scope := range scopes {
		if scope == ScopeAdmin {
			continue
		}
		kind, name, ok := strings.Cut(scope, ":")
		var err error
		switch {
		case ok && kind == ScopePush:
			err = s.CheckProject(name)
		case ok && (kind == ScopeRead || kind == ScopeWrite || kind == ScopePromote || kind == ScopeAudit || kind == ScopeScim || kind == ScopeScimLink):
			_, err = s.Environment(name)
		default:
			return fmt.Errorf("%w: scope %q: there are %s", ErrInvalid, scope, scopeKinds)
		}
		if err != nil {
			return fmt.Errorf("%w: scope %q: %w", ErrInvalid, scope, err)
		}
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return fmt.Errorf("%w: a name has 1 to %d bytes and no control characters", ErrInvalid, maxName)
	}
	return nil
}

// CreateToken makes a token. Its text is nowhere else. valid 0 is 90 days.
func (s *Store) CreateToken(ctx context.Context, name string, scopes []string, valid time.Duration, by string) (t Token, text string, err error) {
	if err := errors.Join(checkName(name), s.checkScopes(scopes)); err != nil {
		return t, "", err
	}
	if valid == 0 {
		valid = tokenValid
	}
	if valid < 0 || valid > maxValid {
		return t, "", fmt.Errorf("%w: a token is valid for up to ten years", ErrInvalid)
	}
	text, id, hash := newSecret(servicePrefix)
	now := s.with.Clock().UTC().Truncate(time.Second)
	t = Token{ID: id, Name: name, Scopes: scopes, CreatedBy: by, CreatedAt: now, ExpiresAt: now.Add(valid)}
	encoded, err := json.Marshal(scopes)
	if err != nil {
		return t, "", err
	}
	err = s.submit(ctx, 1, func(w *writer) error {
		var n int
		if _, err := w.row([]any{&n}, "select count(*) from token"); err != nil {
			return err
		}
		if n >= maxTokens {
			if _, err := w.exec("delete from token where expires_at < ? or revoked_at > 0", now.Unix()); err != nil {
				return err
			}
			if _, err := w.row([]any{&n}, "select count(*) from token"); err != nil {
				return err
			}
			if n >= maxTokens {
				return fmt.Errorf("%w: there are %d tokens already: revoke some", ErrInvalid, n)
			}
		}
		_, err := w.exec("insert into token (id, name, hash, scopes, created_by, created_at, expires_at, revoked_at) values (?, ?, ?, ?, ?, ?, ?, 0)",
			id, name, hash, string(encoded), by, now.Unix(), t.ExpiresAt.Unix())
		return err
	})
	return t, text, err
}

const tokenColumns = "id, name, scopes, created_by, created_at, expires_at, revoked_at"

func scanToken(row scanner, more ...any) (t Token, err error) {
	var scopes string
	var created, expires, revoked int64
	if err := row.Scan(append([]any{&t.ID, &t.Name, &scopes, &t.CreatedBy, &created, &expires, &revoked}, more...)...); err != nil {
		return t, err
	}
	t.CreatedAt, t.ExpiresAt, t.Revoked = unix(created), unix(expires), unix(revoked)
	return t, json.Unmarshal([]byte(scopes), &t.Scopes)
}

// unix is a stored time; 0 is none.
func unix(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(at, 0).UTC()
}

// Authenticate finds the token with this text. Its error is ErrRefused where it is not accepted.
func (s *Store) Authenticate(ctx context.Context, text string) (*Token, error) {
	id, hash, ok := parseSecret(servicePrefix, text)
	if !ok {
		return nil, errToken
	}
	rows, err := s.read.QueryContext(ctx, "select "+tokenColumns+", hash from token where id = ?", id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	if !rows.Next() {
		return nil, errors.Join(rows.Err(), errToken)
	}
	var stored []byte
	t, err := scanToken(rows, &stored)
	if err != nil {
		return nil, err
	}
	if !same(stored, hash) || !t.Revoked.IsZero() || !s.with.Clock().Before(t.ExpiresAt) {
		return nil, errToken
	}
	return &t, nil
}

// Tokens lists the tokens.
func (s *Store) Tokens(ctx context.Context) (list []Token, err error) {
	rows, err := s.read.QueryContext(ctx, "select "+tokenColumns+" from token order by created_at, id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		t, err := scanToken(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, rows.Err()
}

// RevokeToken ends a token.
func (s *Store) RevokeToken(ctx context.Context, id string) error {
	return s.submit(ctx, 1, func(w *writer) error {
		n, err := w.exec("update token set revoked_at = ? where id = ? and revoked_at = 0", s.with.Clock().Unix(), id)
		if err == nil && n == 0 {
			err = fmt.Errorf("token %q that is not revoked: %w", id, ErrNotFound)
		}
		return err
	})
}
