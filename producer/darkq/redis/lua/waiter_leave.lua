-- Remove a caller that has left permanently; return whether it was the last one.
--
-- That is recorded in the same step, so that a caller who comes for the job later is refused.
--
-- KEYS  waiters, as in waiter_keep.lua
-- ARGV  caller, ttl of the set in ms
-- Returns 1 when no caller waits for the job any more, else 0.

local waiters = KEYS[1]
local caller, ttl_ms = unpack(ARGV)
local time = redis.call('TIME')
local now_ms = string.format('%.3f', time[1] * 1000 + time[2] / 1000)
redis.call('ZREM', waiters, caller)
if #redis.call('ZRANGEBYSCORE', waiters, '(' .. now_ms, '+inf', 'LIMIT', 0, 1) > 0 then
  return 0
end
redis.call('ZADD', waiters, 0, '')
redis.call('PEXPIRE', waiters, ttl_ms)
return 1
