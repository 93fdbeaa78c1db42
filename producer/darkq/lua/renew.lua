-- Renew a worker's leases in a partition; tell which are lost and which jobs to cancel.
--
-- A lease that ran out while Redis or the worker was away is taken up again, as long as nobody
-- has claimed the job since.
--
-- KEYS  the queues
-- ARGV  lease in ms, then four per job: arq id, number of its queue (from 0), attempt, token
-- Returns two lists of the jobs' numbers (from 0): lost, to be cancelled.

local lease_ms = tonumber(ARGV[1])
local time = redis.call('TIME')
local lease_end = string.format('%.3f', time[1] * 1000 + time[2] / 1000 + lease_ms)

local function is_ours(id, attempt, token)
  local holder = redis.call('GET', 'arq:in-progress:' .. id)
  return (not holder or holder == token)
    and redis.call('GET', 'arq:retry:' .. id) == attempt
    and redis.call('HEXISTS', 'darkq:state:' .. id, 'held') == 1
end

local lost, cancel = {}, {}
for job = 0, (#ARGV - 1) / 4 - 1 do
  local n = job * 4 + 2
  local id, number, attempt, token = unpack(ARGV, n, n + 3)
  if not is_ours(id, attempt, token) then
    lost[#lost + 1] = job
  else
    redis.call('SET', 'arq:in-progress:' .. id, token, 'PX', lease_ms)
    redis.call('ZADD', KEYS[number + 1], 'XX', lease_end, id)
    if redis.call('HEXISTS', 'darkq:state:' .. id, 'cancel') == 1 then
      cancel[#cancel + 1] = job
    end
  end
end
return { lost, cancel }
