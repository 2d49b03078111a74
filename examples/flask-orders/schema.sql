-- Run once on an empty database. Several workers may run it at the same time, so every statement may come twice.
CREATE TABLE IF NOT EXISTS orders (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    owner  TEXT NOT NULL,
    item   TEXT NOT NULL,
    amount NUMERIC NOT NULL CHECK (amount > 0)
);

CREATE INDEX IF NOT EXISTS orders_by_owner ON orders (owner);

INSERT OR IGNORE INTO orders (id, owner, item, amount) VALUES
    (1, 'alice', 'desk lamp', 45),
    (2, 'alice', 'oak table', 620),
    (3, 'bob', 'office chair', 180),
    (4, 'bob', 'bookshelf', 240),
    (5, 'carol', 'coffee maker', 95),
    (6, 'carol', 'wall clock', 30);

PRAGMA user_version = 1;
