-- Rooms with their settings; times are seconds since the Unix epoch. max_users NULL: the default of the settings.
CREATE TABLE rooms (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL DEFAULT '',
    description TEXT NOT NULL DEFAULT '',
    max_users INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_used INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX rooms_by_last_used ON rooms (last_used);

-- Nodes that a restarted controller waits for.
CREATE TABLE nodes (
    id TEXT NOT NULL PRIMARY KEY,
    incarnation INTEGER NOT NULL,
    address TEXT NOT NULL
) WITHOUT ROWID;
