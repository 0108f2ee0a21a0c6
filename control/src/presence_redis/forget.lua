-- Forgets sessions of a node that were taken out. Those of an incarnation that has a later link are that link's.
--
-- KEYS: the node's record, its sessions. ARGV: incarnation, turn, then sessions.
local record, sessions = KEYS[1], KEYS[2]
local fenced = standing(record, ARGV[1], ARGV[2]) == 'fenced'
for at = 3, #ARGV do
  if not (fenced and ARGV[at]:sub(1, 16) == ARGV[1]) then redis.call('HDEL', sessions, ARGV[at]) end
end
return {}
