-- Make jobs due that were put off and may run earlier than planned.
--
-- The score of a running job is the end of its lease. If this call lowers it, `claim` restores it.
--
-- KEYS  the queues
-- ARGV  wake channel, then three per job: arq id, number of its queue (from 0), its new score
-- Returns the numbers (from 0) of the jobs that are in no queue.

local gone, due = {}, {}
for n = 2, #ARGV, 3 do
  local id, queue, place = ARGV[n], KEYS[ARGV[n + 1] + 1], ARGV[n + 2]
  redis.call('ZADD', queue, 'XX', 'LT', place, id)
  if not redis.call('ZSCORE', queue, id) then
    gone[#gone + 1] = (n - 2) / 3
  else
    due[queue] = (due[queue] or 0) + 1
  end
end
for _, queue in ipairs(KEYS) do
  wake_workers(ARGV[1], queue, due[queue] or 0)
end
return gone
