-- The sessions of users, those of one bucket.
--
-- KEYS: the bucket, and the node's record where it is on the same server.
-- ARGV: node, incarnation, turn, then operations of six: kind, user, session, turn, connected_at, room.
--   'enter'  the session is there, and in the room where one is named
--   'exit'   it has left the room
--   'end'    it has ended
-- A record is a user's sessions, oldest first; each is node, session, turn, connected_at, then its rooms.
-- A session that was written in a later turn is left alone.
-- Returns the standing; nothing is done unless it is 'held'.
local bucket, node = KEYS[1], ARGV[1]
local found = KEYS[2] and standing(KEYS[2], ARGV[2], ARGV[3]) or 'held'
if found ~= 'held' then return {found} end

local function write(user, record)
  if #record == 0 then
    redis.call('HDEL', bucket, user)
  else
    redis.call('HSET', bucket, user, cmsgpack.pack(record))
  end
end

local function place_of(record, session)
  for place = 1, #record do
    if record[place][1] == node and record[place][2] == session then return place end
  end
end

-- What a former incarnation of the node has left cannot be alive.
local function drop_former(record, session)
  local incarnation = session:sub(1, 16)
  for place = #record, 1, -1 do
    if record[place][1] == node and record[place][2]:sub(1, 16) < incarnation then
      table.remove(record, place)
    end
  end
end

local function add(record, session, turn, connected_at)
  local place = #record + 1
  while place > 1 and tonumber(record[place - 1][4]) > tonumber(connected_at) do place = place - 1 end
  table.insert(record, place, {node, session, turn, connected_at})
  return place
end

local function room_in(held, room)
  for place = 5, #held do
    if held[place] == room then return place end
  end
end

for at = 4, #ARGV, 6 do
  local kind, user, session, turn = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local connected_at, room = ARGV[at + 4], ARGV[at + 5]
  local record = read(bucket, user) or {}
  if kind == 'enter' then drop_former(record, session) end
  local place = place_of(record, session)
  if kind == 'enter' and not place then place = add(record, session, turn, connected_at) end
  local held = place and record[place]
  if held and held[3] <= turn then
    if kind == 'enter' then
      held[3] = turn
      if room ~= '' and not room_in(held, room) then held[#held + 1] = room end
    elseif kind == 'end' then
      table.remove(record, place)
    else
      local room_place = room_in(held, room)
      if room_place then table.remove(held, room_place) end
    end
    write(user, record)
  end
end
return {'held'}
