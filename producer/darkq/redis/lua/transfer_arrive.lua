-- Store a job that comes from another Redis; the same job sent twice is stored once.
--
-- The note of its arrival outlives the job. The job may have ended here and been deleted before the
-- mover has received the reply.
--
-- KEYS  queue, job, result, retry, state, events, the note of its arrival, list of the tenant's jobs
-- ARGV  arq id, its score, wake channel, job record, its ttl in ms, the latest attempt, ttl of the
--       note in ms, most jobs in a queue, most in a list, number of fields of the state, then their
--       names and values, then two per event: id, event
-- Returns 'arrived' | 'known' | 'full'.

local queue, job, result, retry, state, events, note, list = unpack(KEYS)
local id, place, wake, record, ttl_ms, attempt, note_ttl_ms, limit, listed = unpack(ARGV, 1, 9)
local FIRST_FIELD = 11
local first_event = FIRST_FIELD + tonumber(ARGV[10]) * 2
if redis.call('EXISTS', note, job, result) > 0 then
  return 'known'
end
if redis.call('ZCARD', queue) >= tonumber(limit) then
  return 'full'
end
redis.call('SET', job, record, 'PX', ttl_ms)
redis.call('SET', note, '1', 'PX', note_ttl_ms)
if attempt ~= '' then
  redis.call('SET', retry, attempt, 'PX', ttl_ms * 2)
end
for n = FIRST_FIELD, first_event - 1, 2 do
  redis.call('HSET', state, ARGV[n], ARGV[n + 1])
  redis.call('PEXPIRE', state, ttl_ms * 2)
end
redis.call('DEL', events)
for n = first_event, #ARGV, 2 do
  redis.call('XADD', events, ARGV[n], 'e', ARGV[n + 1])
end
redis.call('PEXPIRE', events, ttl_ms * 2)
redis.call('ZADD', list, place, id)
redis.call('ZREMRANGEBYRANK', list, 0, -listed - 1)
redis.call('PEXPIRE', list, ttl_ms * 2)
redis.call('ZADD', queue, place, id)
wake_workers(wake, queue, 1)
return 'arrived'
