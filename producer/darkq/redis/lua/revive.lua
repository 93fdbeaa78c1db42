-- Queue a failed job again, if its record is kept.
--
-- Its end is undone: the result is deleted, and the `failed` event is removed from the log. Readers
-- continue with a `queued` event that uses the number of the next attempt, as the event of a cancel
-- does. So all cursors stay valid and the numbers of attempts keep growing.
--
-- KEYS  queue, job, retry, state, result, events, failed record, list of failures
-- ARGV  arq id, channel, wake channel, the result as the caller read it, attempt of the event,
--       ttl of a job in ms, most jobs in a queue, event id, event
-- Returns 'queued' | 'gone' when the record is not kept | 'full', or 'again' when the result is
-- not the one that the caller read.

local queue, job, retry, state, result, events, kept, failures = unpack(KEYS)
local id, channel, wake, known, attempt, ttl_ms, limit, event_id, event = unpack(ARGV)
if redis.call('GET', result) ~= known then
  return 'again'
end
if redis.call('EXISTS', kept) == 0 then
  return 'gone'
end
if redis.call('ZCARD', queue) >= tonumber(limit) then
  return 'full'
end
-- The first write is one that a full Redis refuses, so it refuses the whole script.
redis.call('SET', retry, attempt, 'PX', ttl_ms * 2)
local last = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
if last then
  redis.call('XDEL', events, last[1])
end
redis.call('XADD', events, event_id, 'e', event)
redis.call('PEXPIRE', events, ttl_ms * 2)
redis.call('RENAME', kept, job)
redis.call('PEXPIRE', job, ttl_ms)
redis.call('DEL', result, state)
redis.call('ZREM', failures, id)
local time = redis.call('TIME')
redis.call('ZADD', queue, string.format('%.3f', time[1] * 1000 + time[2] / 1000), id)
redis.call(PUBLISH, channel, event)
wake_workers(wake, queue, 1)
return 'queued'
