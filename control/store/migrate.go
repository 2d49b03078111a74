package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date: numbered files, each in its own transaction with its number. A library would do no
// more than these lines with them.
func migrate(ctx context.Context, db *sql.Conn) error {
	if _, err := db.ExecContext(ctx, "create table if not exists schema_version (version integer primary key, at text not null default current_timestamp) strict"); err != nil {
		return err
	}
	files, err := fs.Glob(migrations, "migrations/*.sql") // sorted
	if err != nil {
		return err
	}
	newest := 0
	for _, name := range files {
		version, err := strconv.Atoi(strings.TrimSuffix(path.Base(name), ".sql"))
		if err != nil {
			return fmt.Errorf("%s: its name is no number", name)
		}
		newest = max(newest, version)
		var have int
		if err := db.QueryRowContext(ctx, "select count(*) from schema_version where version = ?", version).Scan(&have); err != nil {
			return err
		}
		if have > 0 {
			continue
		}
		text, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, string(text)); err == nil {
			_, err = tx.ExecContext(ctx, "insert into schema_version (version) values (?)", version)
		}
		if err != nil {
			_ = tx.Rollback() // the error above counts
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	var have int
	if err := db.QueryRowContext(ctx, "select max(version) from schema_version").Scan(&have); err != nil {
		return err
	}
	if have > newest {
		return fmt.Errorf("the database has schema %d and this release knows %d: start the newer release", have, newest)
	}
	return nil
}
