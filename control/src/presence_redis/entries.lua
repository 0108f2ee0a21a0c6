-- A page of what a room holds, for those who look for what should not be there.
--
-- KEYS: the users, their order. ARGV: the id before the page or '', how many.
-- Returns for each user: user, then for each of his sessions: node, session, turn.
local users, order = KEYS[1], KEYS[2]
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local reply = {}
for _, user in ipairs(redis.call('ZRANGEBYLEX', order, from, '+', 'LIMIT', 0, ARGV[2])) do
  local record = read(users, user)
  local entry = {user}
  for place = 2, record and #record or 0 do
    for part = 1, 3 do entry[#entry + 1] = record[place][part] end
  end
  reply[#reply + 1] = entry
end
return reply
