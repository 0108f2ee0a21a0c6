-- The users of a room, and the seats that they take.
--
-- KEYS: the users, their order, and the node's record where it is on the same server.
-- ARGV: node, incarnation, turn, now, then operations of eight: kind, user, session, turn, seats, connected_at, name,
-- metadata.
--   'enter'  the session comes in; seats: how many users the room takes, '0' no limit, '' no question
--   'exit'   it goes
-- A record is when the user came, then his sessions, oldest first; each is node, session, turn, connected_at, name,
-- metadata. A session that was written in a later turn is left alone.
-- Returns the standing, and nothing is done unless it is 'held'; then for each 'enter' 'in' or 'full'.
local users, order = KEYS[1], KEYS[2]
local node, now = ARGV[1], ARGV[4]
local found = KEYS[3] and standing(KEYS[3], ARGV[2], ARGV[3]) or 'held'
if found ~= 'held' then return {found} end

local function place_of(record, session)
  for place = 2, #record do
    if record[place][1] == node and record[place][2] == session then return place end
  end
end

-- What a former incarnation of the node has left cannot be alive.
local function drop_former(record, session)
  local incarnation = session:sub(1, 16)
  for place = #record, 2, -1 do
    if record[place][1] == node and record[place][2]:sub(1, 16) < incarnation then
      table.remove(record, place)
    end
  end
end

local function insert(record, held)
  local place = #record + 1
  while place > 2 and tonumber(record[place - 1][4]) > tonumber(held[4]) do place = place - 1 end
  table.insert(record, place, held)
end

local function enter(user, seats, held)
  local record = read(users, user)
  if record then
    drop_former(record, held[2])
    local place = place_of(record, held[2])
    if place then
      if record[place][3] <= held[3] then
        record[place] = held
        redis.call('HSET', users, user, cmsgpack.pack(record))
      end
      return 'in'
    end
  else
    local most = tonumber(seats) or 0
    if most > 0 and redis.call('HLEN', users) >= most then return 'full' end
    record = {now}
    redis.call('ZADD', order, 0, user)
  end
  insert(record, held)
  redis.call('HSET', users, user, cmsgpack.pack(record))
  return 'in'
end

local function exit(user, session, turn)
  local record = read(users, user)
  local place = record and place_of(record, session)
  if place and record[place][3] <= turn then
    table.remove(record, place)
    if #record > 1 then
      redis.call('HSET', users, user, cmsgpack.pack(record))
    else
      redis.call('HDEL', users, user)
      redis.call('ZREM', order, user)
    end
  end
end

local reply = {'held'}
for at = 5, #ARGV, 8 do
  local kind, user, session, turn = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if kind == 'enter' then
    local held = {node, session, turn, ARGV[at + 5], ARGV[at + 6], ARGV[at + 7]}
    reply[#reply + 1] = enter(user, ARGV[at + 4], held)
  else
    exit(user, session, turn)
  end
end
return reply
