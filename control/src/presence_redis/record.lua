-- A node's record: its incarnation, its latest turn, and what it says of itself.
--
-- KEYS: the record.
-- ARGV: incarnation, turn, then fields and values in turn.
-- Returns 'fenced' (a later incarnation or link has it), 'late' (a later turn of the same link has), 'written', or
-- 'made' (there was none).
local record, incarnation, turn = KEYS[1], ARGV[1], ARGV[2]
local found = standing(record, incarnation, turn)
if found == 'fenced' or found == 'late' then return found end
redis.call('HSET', record, 'incarnation', incarnation, 'turn', turn, unpack(ARGV, 3))
return found == 'held' and 'written' or 'made'
