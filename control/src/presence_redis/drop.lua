-- Drops a node's record, where its incarnation is this one or an earlier one.
--
-- KEYS: the record. ARGV: incarnation. Returns 1 where no record is left, else 0.
local known = redis.call('HGET', KEYS[1], 'incarnation')
if known and known > ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
