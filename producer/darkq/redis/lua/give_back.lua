-- Put jobs that were on their way to another Redis back into their queue, each in its place.
--
-- KEYS  queue, jobs on their way
-- ARGV  wake channel, then arq ids
-- Returns how many.

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
