package devstack

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"gatehouse/children"
	"gatehouse/config"
	"gatehouse/directory"
	"gatehouse/durable"
	"gatehouse/identity/mint"
	"gatehouse/trial"
)

const (
	// Issuer is the name of the local issuer: another one than that of gatehouse token mint, which a configuration may accept as well.
	Issuer = "http://localhost/gatehouse-up"
	// Audience is whom its tokens are for. Only gatehouse up accepts them.
	Audience = "gatehouse-up"

	tokenLifetime = 24 * time.Hour
	renewEvery    = 6 * time.Hour
	mostUsers     = 12
	mostRoles     = 50  // of the directory that are looked at
	mostSources   = 500 // files of the policy that are looked at
)

// users are local users with their tokens, one file each: for curl -H @FILE, so that no token is in a command line or in a shell's history.
type users struct {
	dir    string // for its owner alone
	issuer *mint.LocalIssuer
	as     *config.Config
	list   []user
}

// user is somebody with a token.
type user struct {
	Name  string   // the subject
	Roles []string // in the token, or those of the directory
	Known string   // where it is from, for people
	File  string   // with the header
	roles bool     // Roles are in the token
	claim string   // that names the user in the directory, where it is not sub
	value string
}

// openUsers opens the local issuer of a project.
func openUsers(state string, as *config.Config) (*users, error) {
	u := &users{dir: filepath.Join(state, "users"), as: as}
	var err error
	if u.issuer, err = mint.OpenLocalIssuer(state, Issuer); err != nil {
		return nil, err
	}
	if err = os.RemoveAll(u.dir); err == nil {
		err = os.MkdirAll(u.dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("making the folder for tokens: %w", err)
	}
	return u, nil
}

// accept makes a configuration take the local issuer's tokens beside those that it takes. Other local issuers whose keys are not made yet, as nobody has
// wanted a token of theirs, are left out: serve would not start without them.
func (u *users) accept(c *config.Config) { accept(c, u.issuer.Set()) }

func accept(c *config.Config, set string) {
	c.Identity.JWT = slices.DeleteFunc(slices.Clone(c.Identity.JWT), isUnmade)
	c.Identity.JWT = append(c.Identity.JWT, config.JWT{Issuer: Issuer, Audiences: []string{Audience}, Keys: config.Keys{File: set}})
	if len(c.Directory.User.Issuers) > 0 {
		c.Directory.User.Issuers = append(slices.Clone(c.Directory.User.Issuers), Issuer)
	}
}

// LikeRunning makes what reads src accept the local issuer's tokens too while gatehouse up runs for src's folder, so that check and token why say what
// a request gets there. It reports whether it does.
func LikeRunning(src config.Source) (config.Source, bool) {
	if src.File == "" || src.Change != nil {
		return src, false
	}
	state, err := StateDir(src.File)
	if err != nil {
		return src, false
	}
	if _, err := os.Stat(filepath.Join(state, urlFile)); err != nil {
		return src, false
	}
	release, err := children.TryLock(filepath.Join(state, lockFile))
	if err == nil {
		release() // it was killed, and left its files
	}
	if !errors.Is(err, children.ErrLocked) {
		return src, false
	}
	src.Change = func(c *config.Config) { accept(c, mint.LocalSet(state)) }
	return src, true
}

// isUnmade reports whether an issuer is a local one without keys.
func isUnmade(j config.JWT) bool {
	if !mint.IsLoopback(j.Issuer) || j.Keys.File == "" {
		return false
	}
	_, err := os.Stat(j.Keys.File)
	return errors.Is(err, fs.ErrNotExist)
}

// find finds a user for each role that the directory, the tests and the policy know, and writes their tokens.
func (u *users) find(snapshot *directory.Snapshot, tests []*trial.Test, now time.Time) error {
	u.list = nil // of its own: what it was is compared with
	if snapshot != nil {
		u.fromDirectory(snapshot, now)
	}
	for _, t := range tests {
		c := t.Caller
		if c.As == "" || slices.ContainsFunc(u.list, func(o user) bool { return o.Name == c.As && (len(c.Roles) == 0 || slices.Equal(o.Roles, c.Roles)) }) {
			continue
		}
		u.add(user{Name: c.As, Roles: c.Roles, Known: "tests.yaml", roles: true})
	}
	for _, role := range policyRoles(u.as) {
		if !slices.ContainsFunc(u.list, func(o user) bool { return slices.Contains(o.Roles, role) }) {
			u.add(user{Name: "some-" + role, Roles: []string{role}, Known: "the policy", roles: true})
		}
	}
	return u.mint(now)
}

func (u *users) add(o user) {
	if len(u.list) < mostUsers {
		u.list = append(u.list, o)
	}
}

// fromDirectory takes one user for each role that somebody has.
func (u *users) fromDirectory(s *directory.Snapshot, now time.Time) {
	looked := 0
	for role := range s.Objects("role") {
		if looked++; looked > mostRoles {
			return
		}
		who, _, err := s.Who(directory.Ref{Type: "role", ID: role.ID}, "member", "user", "", 1, now)
		if err != nil || len(who) == 0 || slices.ContainsFunc(u.list, func(o user) bool { return slices.Contains(o.Roles, role.ID) }) {
			continue
		}
		all, err := s.Members(who[0], "role", "member", now)
		if err != nil {
			continue
		}
		o := user{Name: who[0].ID, Roles: all, Known: "the directory"}
		if u.named(s, &o, now) {
			u.add(o)
		}
	}
}

// named says by which claim the configuration finds a user, false where it would not.
func (u *users) named(s *directory.Snapshot, o *user, now time.Time) bool {
	by := u.as.Directory.User
	o.value = o.Name
	if by.By != "id" {
		o.value = identityOf(s, o.Name, now)
	}
	switch {
	case o.value == "":
		return false
	case by.Claim != "":
		o.claim = by.Claim
	case by.From == "email":
		o.claim = "email"
	default:
		o.Name = o.value // it is the subject itself
	}
	return true
}

// identityOf is a name by which the directory knows a user, "" where there is none.
func identityOf(s *directory.Snapshot, id string, now time.Time) string {
	user := directory.Ref{Type: "user", ID: id}
	for r := range s.Relations(directory.RelationFilter{Object: directory.Ref{Type: "identity"}, Relation: "identifier", Subject: user}, now) {
		return r.Object.ID
	}
	for r := range s.Relations(directory.RelationFilter{Object: user, Relation: "identifier", Subject: directory.Ref{Type: "identity"}}, now) {
		return r.Subject.ID
	}
	return ""
}

// mint writes a token for each user.
func (u *users) mint(now time.Time) error {
	names := map[string]bool{}
	for i := range u.list {
		o := &u.list[i]
		claims := map[string]any{"aud": Audience, "sub": o.Name}
		if o.roles {
			claims["roles"] = append([]string{}, o.Roles...)
		}
		if strings.Contains(o.Name, "@") {
			claims["email"], claims["email_verified"] = o.Name, true
		}
		if o.claim != "" {
			claims[o.claim] = o.value
			if o.claim == "email" {
				claims["email_verified"] = true
			}
		}
		token, err := u.issuer.Mint("", claims, now, tokenLifetime)
		if err != nil {
			return fmt.Errorf("making a token for %q: %w", o.Name, err)
		}
		o.File = filepath.Join(u.dir, fileName(o.Name, names))
		if err := durable.WriteFile(o.File, []byte("Authorization: Bearer "+token+"\n"), 0o600); err != nil {
			return fmt.Errorf("writing a token: %w", err)
		}
	}
	return nil
}

var notInFile = regexp.MustCompile(`[^A-Za-z0-9@._-]+`)

func fileName(name string, taken map[string]bool) string {
	name = strings.TrimLeft(notInFile.ReplaceAllString(name, "_"), ".-")
	name = cmp.Or(name[:min(len(name), 60)], "user")
	for base, n := name, 2; taken[name]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	taken[name] = true
	return name
}

var roleText = []*regexp.Regexp{
	regexp.MustCompile(`"([^"\\\s]{1,64})"\s+in\s+input\.(?:identity|user)\.roles\b`),
	regexp.MustCompile(`input\.(?:identity|user)\.roles\[_\]\s*==\s*"([^"\\\s]{1,64})"`),
}

// policyRoles are the roles that the sources of a policy name, sorted: those that rules ask for, and the keys of roles in data.json. It is for
// showing, and decides nothing.
func policyRoles(c *config.Config) []string {
	var found []string
	add := func(role string) {
		if role != "" && !slices.Contains(found, role) && len(found) < mostUsers {
			found = append(found, role)
		}
	}
	files := 0
	for _, b := range c.Policy.Bundles {
		if b.Path == "" {
			continue
		}
		_ = filepath.WalkDir(b.Path, func(path string, d fs.DirEntry, err error) error { // what cannot be read is Gatehouse's to say
			if err != nil || d.IsDir() {
				return nil
			}
			rego := filepath.Ext(path) == ".rego" && !strings.HasSuffix(path, "_test.rego")
			if !rego && d.Name() != "data.json" {
				return nil
			}
			if files++; files > mostSources {
				return fs.SkipAll
			}
			text, err := config.ReadBounded(path)
			if err != nil {
				return nil
			}
			if !rego {
				rolesOfData(text, add)
				return nil
			}
			for line := range bytes.Lines(text) {
				if code := bytes.TrimSpace(line); bytes.HasPrefix(code, []byte("#")) {
					continue
				}
				for _, expression := range roleText {
					for _, m := range expression.FindAllSubmatch(line, -1) {
						add(string(m[1]))
					}
				}
			}
			return nil
		})
	}
	slices.Sort(found)
	return found
}

func rolesOfData(text []byte, add func(string)) {
	var data struct {
		Roles map[string]json.RawMessage `json:"roles"`
	}
	if json.Unmarshal(text, &data) != nil {
		return
	}
	for role := range data.Roles {
		add(role)
	}
}
