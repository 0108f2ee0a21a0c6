-- A page of a room's users, in the order of their ids.
--
-- KEYS: the users, their order. ARGV: the id before the page or '', how many.
-- Returns how many users there are in all, then for each: user, when he came, how many sessions, and of the newest:
-- node, name, metadata.
local users, order = KEYS[1], KEYS[2]
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local reply = {redis.call('HLEN', users)}
for _, user in ipairs(redis.call('ZRANGEBYLEX', order, from, '+', 'LIMIT', 0, ARGV[2])) do
  local record = read(users, user)
  if record then
    local newest = record[#record]
    reply[#reply + 1] = {user, record[1], tostring(#record - 1), newest[1], newest[5], newest[6]}
  end
end
return reply
