-- Remove what has lapsed from a zset, oldest first, and only so much in one call: the next goes on.
--
-- So members are counted by score: some that have lapsed may still be there.

local MOST_DROPPED = 1000

local function drop(key, bound)
  local old = redis.call('ZRANGEBYSCORE', key, '-inf', bound, 'LIMIT', 0, MOST_DROPPED)
  if #old > 0 then
    redis.call('ZREM', key, unpack(old))
  end
end
