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
