-- Put moving jobs back into their queue, each with its former score.
--
-- KEYS  queue, moving jobs
-- ARGV  wake channel, then arq ids
-- Returns how many were put back.

local queue, moving = unpack(KEYS)
local count = 0
for n = 2, #ARGV do
  local id = ARGV[n]
  local place = redis.call('ZSCORE', moving, id)
  if place then
    redis.call('ZADD', queue, place, id)
    redis.call('ZREM', moving, id)
    redis.call('HDEL', 'darkq:state:' .. id, 'moving')
    count = count + 1
  end
end
if count > 0 then
  wake_workers(ARGV[1], queue, count)
end
return count
