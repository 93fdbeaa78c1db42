-- Record in a job's batch, in the same step, that the job has ended. Does nothing for other jobs.
--
-- `mark` is the field `batch` of the job's state, or false; `batches.lua` describes it.
--
-- The entry has a stamp, the server's time in microseconds. After a failover, or a crash that lost the
-- latest writes, Redis gives the same number to another end, but with another stamp.
local function end_line(mark, job_id, outcome)
  local id, line = string.match(mark or '', '^(%S+) (%d+)$')
  local batch = id and 'darkq:batch:' .. id
  local ttl_ms = batch and redis.call('HGET', batch, 'ttl_ms')
  if not ttl_ms then
    return
  end
  local number = redis.call('HINCRBY', batch, 'ended', 1)
  redis.call('HINCRBY', batch, outcome, 1)
  redis.call('ZADD', batch .. ':lines', number, line)
  local time = redis.call('TIME')
  local stamp = string.format('%.0f', time[1] * 1000000 + time[2])
  redis.call('XADD', batch .. ':ends', number .. '-0',
    'l', line, 'o', outcome, 'j', job_id, 't', stamp)
  redis.call('PEXPIRE', batch .. ':ends', ttl_ms)
  redis.call(PUBLISH, 'darkq:live:batch:' .. id, number)
end
