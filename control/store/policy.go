package store

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Revision is a bundle that passed its checks. It never changes.
type Revision struct {
	id                         int64
	Project                    string
	Digest                     string // of its files: its name
	Archive                    string // SHA-256 of its signed tarball, which is a file
	Size                       int64
	Decision                   string
	Message, Actor             string
	At                         time.Time
	Files, Rules, Tests, Smoke int
}

// Promotion is one change of what an environment points at.
type Promotion struct {
	Environment string
	Sequence    uint64
	Action      string // promote or rollback
	Revision    Revision
	Previous    string // digest; "": there was none
	Actor       string
	Message     string
	At          time.Time
}

// Actions of promotions.
const (
	ActionPromote  = "promote"
	ActionRollback = "rollback"
)

// Bounds of policies.
const (
	maxMessage   = 2000   // bytes
	maxRevisions = 20_000 // of a project
	shortDigest  = 8      // digits that name a revision at least
	keepRefused  = 10_000 // refusals in the audit log; what was done is kept for ever
	maxDetail    = 500    // bytes of an entry
)

var projectName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Project is the project of an environment.
func (e *Environment) Project() string {
	project, _, _ := strings.Cut(e.Name, "/")
	return project
}

// CheckProject reports whether there is a project: it has an environment.
func (s *Store) CheckProject(name string) error {
	if !projectName.MatchString(name) {
		return fmt.Errorf("%w: project %q: it is the first half of an environment's name", ErrInvalid, name)
	}
	for _, e := range s.Environments() {
		if e.Project() == name {
			return nil
		}
	}
	return fmt.Errorf("project %q: %w: gatehouse control environment %s/prod makes its first environment", name, ErrNotFound, name)
}

// CheckMessage bounds what people say about a change.
func CheckMessage(text string) error {
	if len(text) > maxMessage || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r == 0xfffd }) {
		return fmt.Errorf("%w: a message has at most %d bytes and no control characters", ErrInvalid, maxMessage)
	}
	return nil
}

const revisionColumns = "r.id, r.project, r.digest, r.archive, r.size, r.decision, r.message, r.actor, r.at, r.files, r.rules, r.tests, r.smoke"

func (r *Revision) columns() []any {
	return []any{&r.id, &r.Project, &r.Digest, &r.Archive, &r.Size, &r.Decision, &r.Message, &r.Actor, (*millis)(&r.At), &r.Files, &r.Rules, &r.Tests, &r.Smoke}
}

// millis is a time that is stored in milliseconds.
type millis time.Time

// Scan implements sql.Scanner.
func (m *millis) Scan(value any) error {
	at, ok := value.(int64)
	if !ok {
		return fmt.Errorf("a time is stored as %T", value)
	}
	*m = millis(time.UnixMilli(at).UTC())
	return nil
}

// AddRevision stores a revision whose tarball is on disk. Where the project has its files already, that revision is returned.
func (s *Store) AddRevision(ctx context.Context, r Revision, entry Audit) (out Revision, existed bool, err error) {
	err = s.submit(ctx, 1, func(w *writer) error {
		var have Revision
		found, err := w.row(have.columns(), "select "+revisionColumns+" from revision r where project = ? and digest = ?", r.Project, r.Digest)
		if err != nil {
			return err
		}
		if found {
			out, existed = have, true
			entry.Detail += ": it was there already"
			return w.audit(entry)
		}
		var n int
		if _, err := w.row([]any{&n}, "select count(*) from revision where project = ?", r.Project); err != nil {
			return err
		}
		if n >= maxRevisions {
			return fmt.Errorf("%w: project %s has %d revisions already", ErrInvalid, r.Project, n)
		}
		r.At = s.with.Clock().UTC().Truncate(time.Millisecond)
		if _, err := w.exec("insert into revision (project, digest, archive, size, decision, message, actor, at, files, rules, tests, smoke) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			r.Project, r.Digest, r.Archive, r.Size, r.Decision, r.Message, r.Actor, r.At.UnixMilli(), r.Files, r.Rules, r.Tests, r.Smoke); err != nil {
			return err
		}
		if _, err := w.row([]any{&r.id}, "select id from revision where project = ? and digest = ?", r.Project, r.Digest); err != nil {
			return err
		}
		out = r
		return w.audit(entry)
	})
	return out, existed, err
}

var digestPrefix = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

// FindRevision finds a revision of a project by its digest, or by the beginning of it.
func (s *Store) FindRevision(ctx context.Context, project, digest string) (Revision, error) {
	digest = strings.TrimPrefix(digest, "sha256:")
	if !digestPrefix.MatchString(digest) {
		return Revision{}, fmt.Errorf("%w: revision %q: give its digest, or at least %d digits of it", ErrInvalid, digest, shortDigest)
	}
	rows, err := s.read.QueryContext(ctx, "select "+revisionColumns+" from revision r where project = ? and digest >= ? and digest < ? limit 2", project, digest, digest+"g")
	if err != nil {
		return Revision{}, err
	}
	defer rows.Close()
	var list []Revision
	for rows.Next() {
		var r Revision
		if err := rows.Scan(r.columns()...); err != nil {
			return Revision{}, err
		}
		list = append(list, r)
	}
	switch {
	case rows.Err() != nil:
		return Revision{}, rows.Err()
	case len(list) == 0:
		return Revision{}, fmt.Errorf("revision %s of project %s: %w", digest, project, ErrNotFound)
	case len(list) > 1:
		return Revision{}, fmt.Errorf("%w: several revisions of project %s begin with %s: give more digits", ErrInvalid, project, digest)
	}
	return list[0], nil
}

// Revisions lists a project's revisions, the newest first.
func (s *Store) Revisions(ctx context.Context, project string, size int, token string) (list []Revision, next string, err error) {
	before := int64(1<<63 - 1)
	if token != "" {
		if before, err = strconv.ParseInt(token, 10, 64); err != nil {
			return nil, "", fmt.Errorf("%w: the page token is none that a listing gave", ErrInvalid)
		}
	}
	size = pageSize(size)
	rows, err := s.read.QueryContext(ctx, "select "+revisionColumns+" from revision r where project = ? and id < ? order by id desc limit ?", project, before, size+1)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	for rows.Next() {
		var r Revision
		if err := rows.Scan(r.columns()...); err != nil {
			return nil, "", err
		}
		if len(list) == size {
			return list, strconv.FormatInt(list[size-1].id, 10), nil
		}
		list = append(list, r)
	}
	return list, "", rows.Err()
}

// Policy is what the environment points at, nil where nothing was promoted, and a channel that is closed when it changes.
func (e *Environment) Policy() (*Promotion, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.promotion, e.repointed
}

// point makes a promotion that is on disk the environment's one.
func (e *Environment) point(p *Promotion) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.promotion = p
	close(e.repointed)
	e.repointed = make(chan struct{})
}

// Promote is a promotion that is asked for.
type Promote struct {
	Revision string // digest; "": back to what was before
	Expected string // the digest that the environment must point at; "": any; NoEtag: nothing
	Actor    string
	Message  string
	Peer     string
}

// Promote points an environment at a revision of its project. changed is false where it points there already.
func (s *Store) Promote(ctx context.Context, e *Environment, with Promote) (out *Promotion, changed bool, err error) {
	p := &Promotion{Environment: e.Name, Action: ActionPromote, Actor: with.Actor, Message: with.Message}
	if with.Revision == "" {
		p.Action = ActionRollback
	} else if p.Revision, err = s.FindRevision(ctx, e.Project(), with.Revision); err != nil {
		return nil, false, err
	}
	err = s.submit(ctx, 1, func(w *writer) error {
		was, err := w.promotion(e)
		if err != nil {
			return err
		}
		now := "" // what it points at
		if was != nil {
			now = was.Revision.Digest
		}
		if with.Expected != "" && strings.TrimPrefix(with.Expected, "sha256:") != now && (with.Expected != NoEtag || was != nil) {
			return &movedError{e.Name, orNothing(now)}
		}
		if p.Action == ActionRollback {
			if p.Revision, err = w.before(e, was); err != nil {
				return err
			}
		}
		if now == p.Revision.Digest {
			out, changed = was, false
			return nil
		}
		if is, err := w.underWay(e); err != nil || is {
			return errorsOr(err, fmt.Errorf("%w: a rollout is under way in %s: end it first (gatehouse control rollout abort)", ErrInvalid, e.Name))
		}
		if err := w.promote(e, p); err != nil {
			return err
		}
		out, changed = p, true
		return w.audit(Audit{Actor: with.Actor, Peer: with.Peer, Action: p.Action, Subject: e.Name, Detail: "from " + orNothing(now) + " to " + p.Revision.Digest + ": " + with.Message})
	})
	return out, changed, err
}

func orNothing(digest string) string {
	if digest == "" {
		return "nothing"
	}
	return digest
}

const promotionColumns = "p.sequence, p.action, coalesce((select digest from revision where id = p.previous), ''), p.actor, p.message, p.at"

func (p *Promotion) columns() []any {
	return append([]any{&p.Sequence, &p.Action, &p.Previous, &p.Actor, &p.Message, (*millis)(&p.At)}, p.Revision.columns()...)
}

const promotionQuery = "select " + promotionColumns + ", " + revisionColumns + " from promotion p join revision r on r.id = p.revision where p.environment = ?"

// promotion is what an environment points at, in the transaction; nil: nothing.
func (w *writer) promotion(e *Environment) (*Promotion, error) {
	p := &Promotion{Environment: e.Name}
	found, err := w.row(p.columns(), promotionQuery+" order by p.sequence desc limit 1", e.id)
	if err != nil || !found {
		return nil, err
	}
	return p, nil
}

// before is the revision that an environment had before the one that it has: the one that was replaced when that was
// promoted, so that two rollbacks go back two promotions.
func (w *writer) before(e *Environment, was *Promotion) (r Revision, err error) {
	if was == nil {
		return r, fmt.Errorf("%w: nothing was promoted in %s yet", ErrInvalid, e.Name)
	}
	found, err := w.row(r.columns(), "select "+revisionColumns+` from revision r where r.id =
		(select previous from promotion where environment = ? and revision = ? and action = ? order by sequence desc limit 1)`, e.id, was.Revision.id, ActionPromote)
	if err == nil && !found {
		err = fmt.Errorf("%w: %s had no revision before %s: promote one", ErrInvalid, e.Name, was.Revision.Digest)
	}
	return r, err
}

// loadPolicy reads what an environment points at.
func (s *Store) loadPolicy(ctx context.Context, e *Environment) error {
	p := &Promotion{Environment: e.Name}
	found, err := scanOne(s.write.QueryRowContext(ctx, promotionQuery+" order by p.sequence desc limit 1", e.id), p.columns()...)
	if err == nil && found {
		e.promotion = p
	}
	return err
}

// Promotions lists what an environment was pointed at, the newest first, before a sequence or, with 0, from the newest on.
func (e *Environment) Promotions(ctx context.Context, before uint64, size int) (list []Promotion, next uint64, err error) {
	if before == 0 {
		before = 1<<63 - 1
	}
	size = pageSize(size)
	rows, err := e.store.read.QueryContext(ctx, promotionQuery+" and p.sequence < ? order by p.sequence desc limit ?", e.id, int64(min(before, 1<<63-1)), size)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		p := Promotion{Environment: e.Name}
		if err := rows.Scan(p.columns()...); err != nil {
			return nil, 0, err
		}
		list = append(list, p)
	}
	if len(list) == size && list[size-1].Sequence > 1 {
		next = list[size-1].Sequence
	}
	return list, next, rows.Err()
}

// Audit is one entry of the audit log.
type Audit struct {
	ID      uint64
	At      time.Time
	Actor   string
	Peer    string
	Action  string
	Subject string
	Refused bool
	Detail  string
}

// audit writes an entry with the change that it is about.
func (w *writer) audit(a Audit) error {
	if len(a.Detail) > maxDetail {
		a.Detail = strings.ToValidUTF8(a.Detail[:maxDetail], "") + "..."
	}
	_, err := w.exec("insert into audit (at, actor, peer, action, subject, refused, detail) values (?, ?, ?, ?, ?, ?, ?)",
		w.store.with.Clock().UnixMilli(), a.Actor, a.Peer, a.Action, a.Subject, a.Refused, a.Detail)
	if err == nil && a.Refused { // who is refused writes what others must keep: the oldest of it goes
		_, err = w.exec("delete from audit where refused = 1 and id <= (select id from audit where refused = 1 order by id desc limit 1 offset ?)", keepRefused)
	}
	return err
}

// Record writes an entry of its own.
func (s *Store) Record(ctx context.Context, a Audit) error {
	return s.submit(ctx, 1, func(w *writer) error { return w.audit(a) })
}

// Audits lists entries, the newest first, before one or, with 0, from the newest on.
func (s *Store) Audits(ctx context.Context, before uint64, size int) (list []Audit, next uint64, err error) {
	if before == 0 {
		before = 1<<63 - 1
	}
	size = pageSize(size)
	rows, err := s.read.QueryContext(ctx, "select id, at, actor, peer, action, subject, refused, detail from audit where id < ? order by id desc limit ?", int64(min(before, 1<<63-1)), size)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var a Audit
		if err := rows.Scan(&a.ID, (*millis)(&a.At), &a.Actor, &a.Peer, &a.Action, &a.Subject, &a.Refused, &a.Detail); err != nil {
			return nil, 0, err
		}
		list = append(list, a)
	}
	if len(list) == size {
		next = list[size-1].ID
	}
	return list, next, rows.Err()
}

// movedError is a promotion that expected another revision; an ErrEtag.
type movedError struct{ environment, revision string }

func (e *movedError) Error() string {
	return e.environment + " points at " + e.revision + ": it was changed meanwhile: look at gatehouse control history, and repeat with --expected REVISION"
}

// Is implements errors.Is.
func (e *movedError) Is(target error) bool { return target == ErrEtag }
