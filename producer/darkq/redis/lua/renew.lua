-- Renew a worker's leases in a partition; return which are lost and which jobs to cancel.
--
-- A lease that expired while Redis or the worker was away is taken again, unless another worker has
-- claimed the job since.
--
-- The keys of a running job live for as long as it runs, and then as long as those of a new job. They
-- live for at least two leases, since a lease is longer than the time between two calls.
--
-- KEYS  the queues
-- ARGV  lease in ms, ttl of a job in ms, then four per job: arq id, number of its queue (from 0),
--       attempt, token
-- Returns two lists of the jobs' numbers (from 0): lost, to be cancelled.

local lease_ms = tonumber(ARGV[1])
local live_ms = math.max(tonumber(ARGV[2]), 2 * lease_ms)
local time = redis.call('TIME')
local lease_end = string.format('%.3f', time[1] * 1000 + time[2] / 1000 + lease_ms)

local function is_ours(id, attempt, token)
  local holder = redis.call('GET', 'arq:in-progress:' .. id)
  return (not holder or holder == token)
    and redis.call('GET', 'arq:retry:' .. id) == attempt
    and redis.call('HEXISTS', 'darkq:state:' .. id, 'held') == 1
end

-- Writes seldom: while most of the record's ttl is left, so is that of the other keys.
local function keep_alive(id)
  if redis.call('PTTL', 'arq:job:' .. id) > live_ms * 3 / 4 then
    return
  end
  redis.call('PEXPIRE', 'arq:job:' .. id, live_ms)
  for _, key in ipairs({ 'arq:retry:' .. id, 'darkq:events:' .. id, 'darkq:state:' .. id }) do
    redis.call('PEXPIRE', key, live_ms * 2)
  end
end

local lost, cancel = {}, {}
for job = 0, (#ARGV - 2) / 4 - 1 do
  local n = job * 4 + 3
  local id, number, attempt, token = unpack(ARGV, n, n + 3)
  if not is_ours(id, attempt, token) then
    lost[#lost + 1] = job
  else
    redis.call('SET', 'arq:in-progress:' .. id, token, 'PX', lease_ms)
    redis.call('ZADD', KEYS[number + 1], 'XX', lease_end, id)
    keep_alive(id)
    if redis.call('HEXISTS', 'darkq:state:' .. id, 'cancel') == 1 then
      cancel[#cancel + 1] = job
    end
  end
end
return { lost, cancel }
