-- A user's sessions, oldest first.
--
-- KEYS: the bucket. ARGV: user. Returns for each session: node, session, turn, connected_at, rooms...
return read(KEYS[1], ARGV[1]) or {}
