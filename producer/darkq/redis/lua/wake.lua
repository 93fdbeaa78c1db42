-- Wake workers that have room for jobs of a queue: a head of the scripts that make jobs due.
--
-- `claim` notes every worker that has room left in `darkq:{p}:idle:<priority>`, a zset; score = its
-- free slots, negative: the emptiest is woken first. A worker is woken through a channel of its own,
-- and is noted no more until it has claimed again. While jobs are left, its claim wakes the next ones;
-- if it has no room by then, it passes the word on. So a job costs one message, however many workers
-- wait, and no word is lost. A worker that has died does not listen: the next one is woken instead.

local MOST_WOKEN = 2 -- by one call: those wake the next two each
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
