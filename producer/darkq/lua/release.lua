-- Give a job back to its queue, if it is still ours: to be tried again, or handed on.
--
-- KEYS  queue, in-progress, retry, state, events
-- ARGV  arq id, attempt, owner token, channel, wake channel,
--       delay in ms ('': at the place it had), the score of that place,
--       1 if this burns a try, then two per event: id, event
-- Returns 1, or 0 when the job is not ours any more and nothing was changed.

local queue, in_progress, retry, state, events = unpack(KEYS)
local id, attempt, token, channel, wake, delay_ms, place, burns = unpack(ARGV, 1, 8)
local holder = redis.call('GET', in_progress)
if holder and holder ~= token or redis.call('GET', retry) ~= attempt
  or redis.call('HEXISTS', state, 'held') == 0 then
  return 0
end
for n = 9, #ARGV, 2 do
  redis.call('XADD', events, 'NOMKSTREAM', ARGV[n], 'e', ARGV[n + 1])
end
local score = place
-- A job that is to be cancelled is due at once: whoever claims it will end it.
if delay_ms ~= '' and redis.call('HEXISTS', state, 'cancel') == 0 then
  local time = redis.call('TIME')
  score = string.format('%.3f', time[1] * 1000 + time[2] / 1000 + delay_ms)
end
redis.call('ZADD', queue, 'XX', score, id)
redis.call('DEL', in_progress)
redis.call('HDEL', state, 'held')
if burns == '1' then
  redis.call('HINCRBY', state, 'tries', 1)
end
for n = 9, #ARGV, 2 do
  redis.call('PUBLISH', channel, ARGV[n + 1])
end
redis.call('PUBLISH', wake, 'jobs')
return 1
