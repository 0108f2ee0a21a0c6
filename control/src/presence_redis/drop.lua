-- Drops a node's record, unless it is one of a later link or incarnation.
--
-- KEYS: the record. ARGV: incarnation, turn. Returns 1 where no record is left, else 0.
if standing(KEYS[1], ARGV[1], ARGV[2]) == 'fenced' then return 0 end
redis.call('DEL', KEYS[1])
return 1
