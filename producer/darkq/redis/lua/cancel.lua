-- Cancel a job: at once while it waits; while it runs, by a flag that its worker reads.
--
-- A waiting job's `cancelled` event uses the number of the next attempt, as if a worker had claimed
-- it. So a former holder of the job cannot write after it.
--
-- A job that is moving to another Redis gets the flag too; the mover then cancels it at the target.
--
-- A job whose lease expired while Redis was away may still run. So it gets the flag as well: its
-- worker renews the lease and reads the flag. If that worker is dead, the next one ends the job.
--
-- With 'waiting' as the last argument only a waiting job is cancelled; a running one gets no flag.
--
-- KEYS  in-progress, job, retry, state, result, events, then the queues
-- ARGV  arq id, channel, wake channel, the latest attempt as the caller read it,
--       result record, its ttl in ms, event id, event[, 'waiting']
-- Returns 'finished' | 'running' | 'cancelled' | 'unknown', or 'again' when the attempt has
-- changed since the caller read it.

local in_progress, job, retry, state, result, events = unpack(KEYS, 1, 6)
local id, channel, wake, attempt, record, ttl_ms, event_id, event = unpack(ARGV)
if redis.call('EXISTS', result) == 1 then
  return 'finished'
end
local function may_run()
  if redis.call('EXISTS', in_progress) == 1 then
    return true
  end
  local was_held, moving = unpack(redis.call('HMGET', state, 'held', 'moving'))
  local stands = false
  for n = 7, #KEYS do
    stands = stands or redis.call('ZSCORE', KEYS[n], id)
  end
  return was_held and stands or moving
end

if may_run() then
  if ARGV[9] == 'waiting' then
    return 'running'
  end
  redis.call('HSET', state, 'cancel', '1')
  redis.call(PUBLISH, wake, 'cancel ' .. id)
  return 'running'
end
if (redis.call('GET', retry) or '0') ~= attempt then
  return 'again'
end
local removed = 0
for n = 7, #KEYS do
  removed = removed + redis.call('ZREM', KEYS[n], id)
end
if removed + redis.call('DEL', job) == 0 then
  return 'unknown'
end
local batch = redis.call('HGET', state, 'batch')
redis.call('DEL', retry, state)
redis.call('SET', result, record, 'PX', ttl_ms)
redis.call('XADD', events, 'NOMKSTREAM', event_id, 'e', event)
redis.call('PEXPIRE', events, ttl_ms)
redis.call(PUBLISH, channel, event)
if batch then
  end_line(batch, id, 'cancelled')
end
return 'cancelled'
