-- What a node holds, and who may say so. Whatever rooms and users hold of a node is named here first and forgotten
-- here last, so that it can be found from here.
--
-- KEYS: the node's record, its sessions.
-- ARGV: incarnation, turn, 'make' where an unknown node is made known, then operations of four:
--   'enter' session user room    the session is there, and in the room where one is named
--   'exit'  session user room    it has left the room
--   'end'   session user ''      it has ended
-- Returns the standing, and nothing is done unless it is 'held'; then for each 'enter' whether the session is a new
-- one, '1' or '0'.
local record, sessions = KEYS[1], KEYS[2]
local incarnation, turn = ARGV[1], ARGV[2]
local found = standing(record, incarnation, turn)
if found ~= 'held' and not (found == 'unknown' and ARGV[3] == 'make') then return {found} end
redis.call('HSET', record, 'incarnation', incarnation, 'turn', turn)

-- A session is its user, then its rooms.
local function place_of(held, room)
  for place = 2, #held do
    if held[place] == room then return place end
  end
end

local reply = {'held'}
for at = 4, #ARGV, 4 do
  local kind, session, user, room = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if kind == 'end' then
    redis.call('HDEL', sessions, session)
  elseif kind == 'enter' then
    local held = read(sessions, session)
    reply[#reply + 1] = held and '0' or '1'
    held = held or {user}
    held[1] = user
    if room ~= '' and not place_of(held, room) then held[#held + 1] = room end
    redis.call('HSET', sessions, session, cmsgpack.pack(held))
  else
    local held = read(sessions, session)
    local place = held and place_of(held, room)
    if place then
      table.remove(held, place)
      redis.call('HSET', sessions, session, cmsgpack.pack(held))
    end
  end
end
return reply
