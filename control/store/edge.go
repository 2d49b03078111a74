package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Edge is what is stored of an edge.
type Edge struct {
	ID, Name, Environment, Version  string
	Enrolled, LastSeen, Certificate time.Time // Certificate: when it expires
	Revoked                         time.Time // zero: it is not
	Revision                        uint64    // that it has applied
	Degraded                        []string
	Error                           string

	// Of an edge that is connected; not stored.
	Policy           string // the revision of control's bundle that is in force: the beginning of its digest
	Counts           Counts // of decisions by it
	WithoutDirectory bool   // it is sent no directory
	WithoutPolicy    bool   // it takes no policy from control
}

// The times of enrolment tokens.
const (
	enrollmentValid = time.Hour
	maxEnrollment   = 30 * 24 * time.Hour
	maxEdges        = 100_000
)

// CreateEnrollment makes a token with which one edge is enrolled, once.
func (s *Store) CreateEnrollment(ctx context.Context, e *Environment, name string, valid time.Duration, by string) (text string, expires time.Time, err error) {
	if name != "" {
		if err := checkName(name); err != nil {
			return "", expires, err
		}
	}
	if valid == 0 {
		valid = enrollmentValid
	}
	if valid < 0 || valid > maxEnrollment {
		return "", expires, fmt.Errorf("%w: an enrolment token is valid for up to 30 days", ErrInvalid)
	}
	text, id, hash := newSecret(enrollmentPrefix)
	now := s.with.Clock().UTC().Truncate(time.Second)
	expires = now.Add(valid)
	err = s.submit(ctx, 1, func(w *writer) error {
		if _, err := w.exec("delete from enrollment where expires_at < ?", now.Add(-maxEnrollment).Unix()); err != nil {
			return err
		}
		_, err := w.exec("insert into enrollment (id, hash, environment, name, created_by, created_at, expires_at) values (?, ?, ?, ?, ?, ?, ?)",
			id, hash, e.id, name, by, now.Unix(), expires.Unix())
		return err
	})
	return text, expires, err
}

var errEnrollment = fmt.Errorf("%w: the enrolment token is unknown", ErrRefused)

// Enroll takes an enrolment token for a public key, and makes the edge. The same key may use it again as long as it is
// valid, because the answer to the first time may have been lost.
func (s *Store) Enroll(ctx context.Context, text string, key []byte, name, version string, certificate time.Time) (Edge, error) {
	id, hash, ok := parseSecret(enrollmentPrefix, text)
	if !ok {
		return Edge{}, fmt.Errorf("%w: this is no enrolment token: gatehouse control enroll makes one", ErrRefused)
	}
	if err := checkName(name); err != nil {
		return Edge{}, err
	}
	var known []byte // before the writer is bothered with it
	if found, err := scanOne(s.read.QueryRowContext(ctx, "select hash from enrollment where id = ?", id), &known); err != nil || !found || !same(known, hash) {
		return Edge{}, errors.Join(err, errEnrollment)
	}
	var out Edge
	err := s.submit(ctx, 1, func(w *writer) error {
		var stored, used []byte
		var environment, expires int64
		var given string
		var edge *string
		found, err := w.row([]any{&stored, &environment, &given, &expires, &used, &edge}, "select hash, environment, name, expires_at, used_key, edge from enrollment where id = ?", id)
		now := s.with.Clock().UTC().Truncate(time.Second)
		switch {
		case err != nil:
			return err
		case !found || !same(stored, hash):
			return errEnrollment
		case !now.Before(unix(expires)):
			return fmt.Errorf("%w: the enrolment token %s has expired", ErrRefused, id)
		case used != nil && !bytes.Equal(used, key):
			return fmt.Errorf("%w: the enrolment token %s was used already, by edge %s", ErrRefused, id, *edge)
		case used != nil:
			out, err = w.edge(*edge)
			if err == nil && !out.Revoked.IsZero() {
				err = fmt.Errorf("%w: edge %s is revoked", ErrRefused, *edge)
			}
			return err
		}
		var n int
		if _, err := w.row([]any{&n}, "select count(*) from edge where revoked_at = 0"); err != nil {
			return err
		}
		if n >= maxEdges {
			return fmt.Errorf("%w: there are %d edges already: revoke those that are gone", ErrInvalid, n)
		}
		if given != "" {
			name = given
		}
		out = Edge{ID: randomName(8), Name: name, Environment: s.nameOf(environment), Version: version, Enrolled: now, Certificate: certificate}
		if _, err := w.exec("insert into edge (id, environment, name, version, enrolled_at, last_seen, revision, degraded, error, certificate_expires, revoked_at) values (?, ?, ?, ?, ?, 0, 0, '[]', '', ?, 0)",
			out.ID, environment, name, version, now.Unix(), certificate.Unix()); err != nil {
			return err
		}
		_, err = w.exec("update enrollment set used_key = ?, edge = ? where id = ?", key, out.ID, id)
		return err
	})
	return out, err
}

// edge reads an edge in the transaction.
func (w *writer) edge(id string) (Edge, error) {
	rows, err := w.store.write.QueryContext(context.Background(), "select "+edgeColumns+" from edge where id = ?", id)
	if err != nil {
		return Edge{}, &databaseError{err}
	}
	defer rows.Close()
	if !rows.Next() {
		return Edge{}, fmt.Errorf("edge %s: %w", id, ErrNotFound)
	}
	return w.store.scanEdge(rows)
}

const edgeColumns = "id, environment, name, version, enrolled_at, last_seen, revision, degraded, error, certificate_expires, revoked_at"

func (s *Store) scanEdge(row scanner) (e Edge, err error) {
	var environment, enrolled, seen, certificate, revoked int64
	var degraded string
	if err := row.Scan(&e.ID, &environment, &e.Name, &e.Version, &enrolled, &seen, &e.Revision, &degraded, &e.Error, &certificate, &revoked); err != nil {
		return e, err
	}
	e.Environment, e.Enrolled, e.LastSeen, e.Certificate, e.Revoked = s.nameOf(environment), unix(enrolled), unix(seen), unix(certificate), unix(revoked)
	return e, json.Unmarshal([]byte(degraded), &e.Degraded)
}

// Edge finds an edge. Its error is ErrRefused where the edge is unknown or revoked.
func (s *Store) Edge(ctx context.Context, id string) (Edge, error) {
	rows, err := s.read.QueryContext(ctx, "select "+edgeColumns+" from edge where id = ?", id)
	if err != nil {
		return Edge{}, err
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return Edge{}, err
		}
		return Edge{}, fmt.Errorf("%w: edge %q is unknown here: enroll it anew", ErrRefused, id)
	}
	e, err := s.scanEdge(rows)
	if err == nil && !e.Revoked.IsZero() {
		err = fmt.Errorf("%w: edge %s (%s) is revoked", ErrRefused, e.ID, e.Name)
	}
	return e, err
}

// Edges lists the edges of an environment, or all for "".
func (s *Store) Edges(ctx context.Context, environment string) (list []Edge, err error) {
	rows, err := s.read.QueryContext(ctx, "select "+edgeColumns+" from edge order by environment, name, id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		e, err := s.scanEdge(rows)
		if err != nil {
			return nil, err
		}
		if environment == "" || e.Environment == environment {
			list = append(list, e)
		}
	}
	return list, rows.Err()
}

// Seen records what edges said last.
func (s *Store) Seen(ctx context.Context, list []Edge) error {
	return s.submit(ctx, len(list), func(w *writer) error {
		for _, e := range list {
			degraded, err := json.Marshal(e.Degraded)
			if err != nil {
				return err
			}
			if _, err := w.exec("update edge set version = ?, last_seen = ?, revision = ?, degraded = ?, error = ? where id = ?",
				e.Version, e.LastSeen.Unix(), e.Revision, string(degraded), e.Error, e.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// Renewed records when an edge's new certificate expires.
func (s *Store) Renewed(ctx context.Context, id string, expires time.Time) error {
	return s.submit(ctx, 1, func(w *writer) error {
		_, err := w.exec("update edge set certificate_expires = ? where id = ?", expires.Unix(), id)
		return err
	})
}

// RevokeEdge refuses an edge from now on.
func (s *Store) RevokeEdge(ctx context.Context, id string) error {
	return s.submit(ctx, 1, func(w *writer) error {
		n, err := w.exec("update edge set revoked_at = ? where id = ? and revoked_at = 0", s.with.Clock().Unix(), id)
		if err == nil && n == 0 {
			err = fmt.Errorf("edge %q that is not revoked: %w", id, ErrNotFound)
		}
		return err
	})
}
