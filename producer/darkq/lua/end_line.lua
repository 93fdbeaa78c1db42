-- A job has ended. If it is of a batch, that takes note of it in the same step.
--
-- `mark` is the field `batch` of the job's state, or false; `batches.lua` says what it means.
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
  redis.call('XADD', batch .. ':ends', number .. '-0', 'l', line, 'o', outcome, 'j', job_id)
  redis.call('PEXPIRE', batch .. ':ends', ttl_ms)
  redis.call(PUBLISH, 'darkq:live:batch:' .. id, number)
end
