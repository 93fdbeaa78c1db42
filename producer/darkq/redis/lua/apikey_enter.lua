-- Let a call of an API key begin, if the key's rate and concurrency allow it.
--
-- The rate is kept as one number: the time at which the key will have used up nothing of it. Each call
-- moves that time on by an interval. It may be ahead of now by the burst less one interval.
--
-- A client repeats a call whose reply was lost. So each call is noted with its id, and a call that is
-- known already is let in without being counted again. For a key with a concurrency limit the calls in
-- progress are noted; for a key with a rate alone, the latest calls of one lease.
--
-- KEYS  rate, calls: a zset, score = end of the lease, epoch ms
-- ARGV  ms between calls (0: no rate), burst, most calls at once (0: no limit), lease in ms, call id
-- Returns 'entered', or 'rate' | 'places'; and the ms to wait at least.

local rate, calls = KEYS[1], KEYS[2]
local interval_ms, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local places, lease_ms, id = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local MOST_NOTED = 1000
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000

local now = string.format('%.3f', now_ms)

drop(calls, now)
if tonumber(redis.call('ZSCORE', calls, id) or 0) > now_ms then
  return { 'entered', 0 }
end
if places > 0 and redis.call('ZCOUNT', calls, '(' .. now, '+inf') >= places then
  return { 'places', 0 }
end
if interval_ms > 0 then
  local used_ms = math.max(now_ms, tonumber(redis.call('GET', rate)) or 0)
  used_ms = math.min(used_ms, now_ms + burst * interval_ms) -- the clock may have been set back
  local wait_ms = used_ms - now_ms - (burst - 1) * interval_ms
  if wait_ms > 0 then
    return { 'rate', math.ceil(wait_ms) }
  end
  used_ms = used_ms + interval_ms
  redis.call('SET', rate, string.format('%.3f', used_ms), 'PX', math.ceil(used_ms - now_ms))
end
redis.call('ZADD', calls, string.format('%.3f', now_ms + lease_ms), id)
if places == 0 then
  redis.call('ZREMRANGEBYRANK', calls, 0, -MOST_NOTED - 1)
end
redis.call('PEXPIRE', calls, lease_ms)
return { 'entered', 0 }
