-- Move waiting jobs of a partition from one queue to the other; they keep their place by time.
--
-- The job record contains the priority too: it is replaced if it still is what the caller read.
--
-- KEYS  source queue, target queue
-- ARGV  wake channel, most jobs in a queue, then three per job: arq id, its record, the new one
-- Returns for each 'moved' | 'running' | 'gone' | 'full'.

local from, to = unpack(KEYS)
local wake, limit = ARGV[1], tonumber(ARGV[2])
local length, moved = redis.call('ZCARD', to), 0

local function shift(id, known, record)
  local job, place = 'arq:job:' .. id, redis.call('ZSCORE', from, id)
  if not place or redis.call('GET', job) ~= known then
    return 'gone'
  elseif redis.call('HEXISTS', 'darkq:state:' .. id, 'held') == 1
    or redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 then
    return 'running'
  elseif length >= limit then
    return 'full'
  end
  redis.call('SET', job, record, 'PX', redis.call('PTTL', job))
  redis.call('ZREM', from, id)
  redis.call('ZADD', to, place, id)
  length, moved = length + 1, moved + 1
  return 'moved'
end

local verdicts = {}
for n = 3, #ARGV, 3 do
  verdicts[#verdicts + 1] = shift(ARGV[n], ARGV[n + 1], ARGV[n + 2])
end
if moved > 0 then
  wake_workers(wake, to, moved)
end
return verdicts
