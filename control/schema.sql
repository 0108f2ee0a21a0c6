-- The controllers' tables in MySQL or MariaDB. Made from control/migrations/mysql: change those, then run
-- RINGCAST_WRITE_SCHEMA=1 cargo test -p control --features cluster schema
--
-- A controller makes its tables itself, where its user may. Otherwise load this as somebody who may:
--   mysql -h localhost -u root -p pubsub < schema.sql
-- Before the first controller starts or later, and as often as you like: what is there stays as it is.

CREATE TABLE IF NOT EXISTS _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);

-- Rooms with their settings; times are seconds since the Unix epoch. max_users NULL: the default of the settings.
-- Ids are compared byte for byte, which no collation of MySQL does: they pad with spaces.
-- Each statement of a migration can be carried out a second time without harm: `schema.sql` is made of them.
CREATE TABLE IF NOT EXISTS rooms (
    id VARBINARY(64) NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL DEFAULT '',
    description VARCHAR(4096) NOT NULL DEFAULT '',
    max_users INT UNSIGNED,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    KEY rooms_by_last_used (last_used)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
VALUES (1, 'rooms', TRUE, x'b61446cbfe1dc7c9cc7bc54a7e30003c1c7be0a2164846fe1068d18f2d738eedc610840722be4b3676238e0cd0c9e199', -1)
ON DUPLICATE KEY UPDATE success = TRUE;
