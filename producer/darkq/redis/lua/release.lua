-- Return a job to its queue, if the caller still holds it: to be retried, handed over, or put off.
--
-- KEYS  queue, in-progress, retry, state, events
-- ARGV  arq id, attempt, owner token, channel, wake channel,
--       delay in ms ('': use the score that follows), the score,
--       1 if this burns a try, ttl of a job in ms, then two per event: id, event
-- Returns 1, or 0 when the caller no longer holds the job and nothing was changed.

local queue, in_progress, retry, state, events = unpack(KEYS)
local id, attempt, token, channel, wake, delay_ms, place, burns, ttl_ms = unpack(ARGV, 1, 9)
local holder = redis.call('GET', in_progress)
if holder and holder ~= token or redis.call('GET', retry) ~= attempt
  or redis.call('HEXISTS', state, 'held') == 0 then
  return 0
end
for n = 10, #ARGV, 2 do
  redis.call('XADD', events, 'NOMKSTREAM', ARGV[n], 'e', ARGV[n + 1])
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000
local due_ms = delay_ms == '' and tonumber(place) or now_ms + delay_ms
-- Readers get an event of a job that is handed over, but not of one that is put off to its turn. The
-- score of a job that is handed over lies ahead only if the clock was set back: it is due all the same.
if delay_ms == '' and #ARGV >= 10 then
  due_ms = math.min(due_ms, now_ms)
end
-- A job that is to be cancelled is due at once: the worker that claims it ends it.
if redis.call('HEXISTS', state, 'cancel') == 1 then
  due_ms = math.min(due_ms, now_ms)
end
redis.call('ZADD', queue, 'XX', string.format('%.3f', due_ms), id)
redis.call('DEL', in_progress)
-- Its keys live as long as those of a new job, counted from when it is due.
local live_ms = ttl_ms + math.ceil(math.max(0, due_ms - now_ms))
if redis.call('PTTL', 'arq:job:' .. id) < live_ms then
  redis.call('PEXPIRE', 'arq:job:' .. id, live_ms)
  for _, key in ipairs({ retry, state, events }) do
    redis.call('PEXPIRE', key, live_ms + ttl_ms)
  end
end
if burns == '1' then -- before HDEL: an empty hash is deleted, and its ttl with it
  redis.call('HSET', state, 'tries', (tonumber(redis.call('HGET', state, 'tries')) or 0) + 1)
end
redis.call('HDEL', state, 'held')
for n = 10, #ARGV, 2 do
  redis.call(PUBLISH, channel, ARGV[n + 1])
end
if due_ms <= now_ms then -- else the worker that released it claims again in time
  wake_workers(wake, queue, 1)
end
return 1
