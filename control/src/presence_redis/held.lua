-- A part of a node's sessions.
--
-- KEYS: the sessions. ARGV: a cursor, about how many.
-- Returns the next cursor ('0': that was all), then for each session: session, user, rooms...
local scan = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local reply = {scan[1]}
for at = 1, #scan[2], 2 do
  local ok, held = pcall(cmsgpack.unpack, scan[2][at + 1])
  if not ok or type(held) ~= 'table' then held = {''} end
  table.insert(held, 1, scan[2][at])
  reply[#reply + 1] = held
end
return reply
