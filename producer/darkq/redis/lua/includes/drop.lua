-- Remove expired members from a zset, oldest first, at most 1,000 in one call.
--
-- The limit keeps a call short. Expired members may therefore remain, so callers must count members
-- by score (ZCOUNT) and not with ZCARD.

local MOST_DROPPED = 1000

local function drop(key, bound)
  local old = redis.call('ZRANGEBYSCORE', key, '-inf', bound, 'LIMIT', 0, MOST_DROPPED)
  if #old > 0 then
    redis.call('ZREM', key, unpack(old))
  end
end
