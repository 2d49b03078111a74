package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date: a numbered list, each in its own transaction with its number. A library would do
// no more than these lines with it.
func migrate(ctx context.Context, db *sql.Conn) error {
	if _, err := db.ExecContext(ctx, "create table if not exists schema_version (version integer primary key, at text not null default current_timestamp) strict"); err != nil {
		return err
	}
	var have int
	if err := db.QueryRowContext(ctx, "select coalesce(max(version), 0) from schema_version").Scan(&have); err != nil {
		return err
	}
	files, err := fs.Glob(migrations, "migrations/*.sql") // sorted
	if err != nil {
		return err
	}
	if have > len(files) {
		return fmt.Errorf("the database has schema %d and this release knows %d: start the newer release", have, len(files))
	}
	for i, name := range files[have:] {
		text, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, string(text)); err == nil {
			_, err = tx.ExecContext(ctx, "insert into schema_version (version) values (?)", have+i+1)
		}
		if err != nil {
			_ = tx.Rollback() // the error above counts
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
