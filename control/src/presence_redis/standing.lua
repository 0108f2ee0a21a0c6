-- What a node's record says to words of that node: 'held', they are carried out; 'fenced', a later link or incarnation
-- has the node; 'late', later words came over the same link; 'unknown', there is no record.
local function standing(record, incarnation, turn)
  local known = redis.call('HMGET', record, 'incarnation', 'turn')
  local last = known[2] or ''
  if not known[1] then return 'unknown' end
  if known[1] > incarnation then return 'fenced' end
  if known[1] < incarnation or last <= turn then return 'held' end
  -- The first 16 digits are the link's number, the rest is its controller's own count.
  return last:sub(1, 16) > turn:sub(1, 16) and 'fenced' or 'late'
end

-- A record of a hash; nil: it is not there, or cannot be read.
local function read(hash, field)
  local packed = redis.call('HGET', hash, field)
  local ok, record = pcall(cmsgpack.unpack, packed or '')
  return ok and type(record) == 'table' and record or nil
end

