-- Add a caller to those who wait for a job, or renew its lease.
--
-- waiters  zset: callers; score = the end of their lease. A caller that has left keeps a lease for
--          as long as it may come back. The member '' means that the last caller has left permanently.
--
-- KEYS  waiters
-- ARGV  caller, its lease in ms, ttl of the set in ms
-- Returns 1, or 0 when the job is to be cancelled since the last caller has left permanently.

local waiters = KEYS[1]
local caller, lease_ms, ttl_ms = unpack(ARGV)
if redis.call('ZSCORE', waiters, '') then
  return 0
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000
redis.call('ZADD', waiters, string.format('%.3f', now_ms + lease_ms), caller)
redis.call('PEXPIRE', waiters, ttl_ms)
return 1
