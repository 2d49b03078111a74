package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"gatehouse/durable"
)

// mark says up to where revisions have been given out. It is written behind the database, never before it: a database
// that is older than its mark was put back, and its next revisions would be others than those that edges know.
type mark struct {
	Epoch        string            `json:"epoch"`
	Environments map[string]uint64 `json:"environments"`
}

const markFile = "mark"

func (s *Store) mark() mark {
	m := mark{Epoch: s.epoch, Environments: map[string]uint64{}}
	for _, e := range s.Environments() {
		m.Environments[e.Name] = e.Snapshot().Revision()
	}
	return m
}

// writeMark writes the mark where it is another than the one that was written last.
func (s *Store) writeMark(was *mark) error {
	now := s.mark()
	if was.Epoch == now.Epoch && maps.Equal(was.Environments, now.Environments) {
		return nil
	}
	text, err := json.Marshal(now)
	if err == nil {
		err = durable.WriteFile(filepath.Join(s.with.Dir, markFile), text, 0o600)
	}
	if err == nil {
		*was = now
	}
	return err
}

// openEpoch reads the epoch, and begins a new one where the mark does not fit the database.
func (s *Store) openEpoch(ctx context.Context) error {
	row := s.write.QueryRowContext(ctx, "select coalesce((select value from meta where key = 'epoch'), '')")
	if err := row.Scan(&s.epoch); err != nil {
		return err
	}
	fresh := s.epoch == ""
	why, err := s.rewound()
	if err != nil {
		return err
	}
	if !fresh && why == "" {
		return nil
	}
	s.epoch = randomName(8)
	if _, err := s.write.ExecContext(ctx, "insert into meta (key, value) values ('epoch', ?) on conflict (key) do update set value = excluded.value", s.epoch); err != nil {
		return err
	}
	if !fresh {
		s.with.Logger.Warn("a new epoch begins: every edge loads its directory anew", zap.String("reason", why), zap.String("epoch", s.epoch))
	}
	return s.writeMark(&mark{})
}

// rewound says why the database does not go on where it was; "": it does.
func (s *Store) rewound() (why string, err error) {
	text, err := os.ReadFile(filepath.Join(s.with.Dir, markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "the database was put into another folder, or its file mark is gone", nil
	}
	if err != nil {
		return "", err
	}
	var m mark
	if json.Unmarshal(text, &m) != nil {
		return "the file mark cannot be read", nil
	}
	if m.Epoch != s.epoch {
		return "the database was replaced by another", nil
	}
	for name, revision := range m.Environments {
		e, err := s.Environment(name)
		if err != nil {
			return fmt.Sprintf("the database is an older one: environment %s is missing", name), nil
		}
		if have := e.Snapshot().Revision(); have < revision {
			return fmt.Sprintf("the database is an older one: %s is at revision %d and was at %d", name, have, revision), nil
		}
	}
	return "", nil
}

// randomName is n random bytes in hexadecimal.
func randomName(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // cannot fail
	return hex.EncodeToString(b)
}
