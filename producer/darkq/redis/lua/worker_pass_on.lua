-- Wake other workers in place of one that was woken and has no free slot, or claims no more.
--
-- KEYS  the queues
-- ARGV  wake channel, worker id
-- Returns 1.

local time = redis.call('TIME')
local now_ms = string.format('%.3f', time[1] * 1000 + time[2] / 1000)
for _, queue in ipairs(KEYS) do
  redis.call('ZREM', idle_workers(queue), ARGV[2])
  if #redis.call('ZRANGEBYSCORE', queue, '-inf', now_ms, 'LIMIT', 0, 1) > 0 then
    wake_workers(ARGV[1], queue, 1)
  end
end
return 1
