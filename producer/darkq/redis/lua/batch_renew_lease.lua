-- Take, renew or give up a batch's lease; create the batch first, if asked to.
--
-- KEYS  batch, lines, ends, acknowledged, runner, list of batches
-- ARGV  batch id, token, lease in ms (0: give it up), ttl in ms, then to create it: field, value, …
-- Returns 'ours' | 'taken' | 'gone', and the token of the holder.

local batch, lines, ends, acknowledged, runner, list = unpack(KEYS)
local id, token, lease_ms, ttl_ms = unpack(ARGV, 1, 4)
if redis.call('EXISTS', batch) == 0 then
  if #ARGV == 4 then
    return { 'gone', '' }
  end
  redis.call('HSET', batch, unpack(ARGV, 5))
end
local holder = redis.call('GET', runner)
if holder and holder ~= token then
  return { 'taken', holder }
end
if lease_ms == '0' then
  redis.call('DEL', runner)
else
  redis.call('SET', runner, token, 'PX', lease_ms)
end
for _, key in ipairs({ batch, lines, ends, acknowledged }) do
  redis.call('PEXPIRE', key, ttl_ms)
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000
redis.call('ZADD', list, string.format('%.3f', now_ms + ttl_ms), id)
drop(list, string.format('%.3f', now_ms))
redis.call('PEXPIRE', list, ttl_ms)
return { 'ours', token }
