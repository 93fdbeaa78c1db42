-- End a job, if it is still ours: its last events, its result and the cleaning in one step.
--
-- So `completed` never precedes the result, and never exists without it.
--
-- KEYS  queue, in-progress, job, retry, state, result, events
-- ARGV  arq id, attempt, owner token, channel, result record, ttl of the result in ms,
--       then two per event: id, event
-- Returns 1, or 0 when the job is not ours any more and nothing was changed.

local queue, in_progress, job, retry, state, result, events = unpack(KEYS)
local id, attempt, token, channel, record, ttl_ms = unpack(ARGV, 1, 6)
local holder = redis.call('GET', in_progress)
if holder and holder ~= token or redis.call('GET', retry) ~= attempt
  or redis.call('HEXISTS', state, 'held') == 0 then
  return 0
end
for n = 7, #ARGV, 2 do
  redis.call('XADD', events, 'NOMKSTREAM', ARGV[n], 'e', ARGV[n + 1])
end
redis.call('SET', result, record, 'PX', ttl_ms)
redis.call('PEXPIRE', events, ttl_ms)
redis.call('ZREM', queue, id)
redis.call('DEL', in_progress, job, retry, state)
for n = 7, #ARGV, 2 do
  redis.call('PUBLISH', channel, ARGV[n + 1])
end
return 1
