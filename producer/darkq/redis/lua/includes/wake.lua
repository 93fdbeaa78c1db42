-- Wake workers that have free slots for jobs of a queue. Included by the scripts that make jobs due.
--
-- `claim` adds each worker that still has free slots to `darkq:{p}:idle:<priority>`, a zset. The score
-- is minus the number of free slots, so the worker with the most is woken first. Each worker has a
-- wake-up channel of its own, and leaves the zset when it is woken; its next claim adds it again. While
-- due jobs are left, a claim wakes further workers. A woken worker that has no slot left wakes another
-- one in its place. So a job costs one message, however many workers wait, and no wake-up is lost. A
-- dead worker has no subscription: PUBLISH returns 0, and the next worker is woken.

local MOST_WOKEN = 2 -- by one call; each of them wakes two more
local MOST_TRIED = 100

local function idle_workers(queue)
  local head, priority = string.match(queue, '^(.*:)(%l+)$')
  return head .. 'idle:' .. priority
end

local function wake_workers(channel, queue, count)
  local idle = idle_workers(queue)
  count = math.min(count, MOST_WOKEN)
  for _ = 1, MOST_TRIED do
    local worker = count > 0 and redis.call('ZRANGEBYSCORE', idle, '-inf', '+inf', 'LIMIT', 0, 1)[1]
    if not worker then
      return
    end
    redis.call('ZREM', idle, worker)
    count = count - redis.call(PUBLISH, channel .. ':' .. worker, 'jobs')
  end
end
