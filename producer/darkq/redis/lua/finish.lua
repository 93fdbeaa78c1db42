-- End a job, if the caller still holds it: last events, result and clean-up in one step.
--
-- So `completed` never precedes the result, and never exists without it.
--
-- The log of a job with a history goes: the history has all that it had. Only the log knows the events
-- of earlier attempts, so the result is cut before their list, its last, and gets them here. If they
-- are too many to be copied in a script, or too long, the log stays, and their list is empty.
--
-- The record of a failed job is kept for `revive`, and the job is added to the list of failures. This
-- does not apply to a line of a batch: the batch reports the failure, and the line can be added to
-- another batch.
--
-- KEYS  queue, in-progress, job, retry, state, result, events; after a failure also: failed
--       record, list of failures
-- ARGV  arq id, attempt, owner token, channel, result record, ttl of the result in ms,
--       what ends the record after the list of earlier events ('': the log stays),
--       then two per event: id, event
-- Returns 1, or 0 when the caller no longer holds the job and nothing was changed. A call that was
-- sent twice, because its reply was lost, returns 1 twice.

local MOST_EARLIER = 1000 -- 100,000 would block the server for more than a second
local MOST_EARLIER_BYTES = 1000000 -- who reads a result reads them too
local queue, in_progress, job, retry, state, result, events, kept, failures = unpack(KEYS)
local id, attempt, token, channel, record, ttl_ms, rest = unpack(ARGV, 1, 7)
local holder = redis.call('GET', in_progress)
local held, batch = unpack(redis.call('HMGET', state, 'held', 'batch'))
if holder and holder ~= token or redis.call('GET', retry) ~= attempt or not held then
  local stored = redis.pcall('GET', result)
  return type(stored) == 'string' and string.sub(stored, 1, #record) == record and 1 or 0
end
local earlier = rest ~= ''
  and redis.call('XRANGE', events, '-', '(' .. attempt .. '-0', 'COUNT', MOST_EARLIER + 1)
local earlier_bytes = 0
for n, entry in ipairs(earlier or {}) do
  earlier[n] = entry[2][2]
  earlier_bytes = earlier_bytes + #earlier[n]
end
if earlier and #earlier <= MOST_EARLIER and earlier_bytes <= MOST_EARLIER_BYTES then
  redis.call('SET', result, record .. table.concat(earlier, ',') .. rest, 'PX', ttl_ms)
  redis.call('DEL', events)
else
  for n = 8, #ARGV, 2 do
    redis.call('XADD', events, 'NOMKSTREAM', ARGV[n], 'e', ARGV[n + 1])
  end
  redis.call('SET', result, record .. rest, 'PX', ttl_ms)
  redis.call('PEXPIRE', events, ttl_ms)
end
redis.call('ZREM', queue, id)
if kept and not batch then
  if redis.call('EXISTS', job) == 1 then
    redis.call('RENAME', job, kept)
    redis.call('PEXPIRE', kept, ttl_ms)
  end
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + time[2] / 1000
  redis.call('ZADD', failures, string.format('%.3f', now_ms), id)
  drop(failures, string.format('(%.3f', now_ms - ttl_ms))
  redis.call('PEXPIRE', failures, ttl_ms)
end
redis.call('DEL', in_progress, job, retry, state)
for n = 8, #ARGV, 2 do
  redis.call(PUBLISH, channel, ARGV[n + 1])
end
if batch then
  end_line(batch, id, string.match(ARGV[#ARGV], '^{"type":"(%l+)"'))
end
return 1
