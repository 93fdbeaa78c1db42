-- Add what a worker has counted since its last report to the totals; a repeated report adds nothing.
--
-- KEYS  totals of all workers, this worker's own hash
-- ARGV  number of the report, ttl of the totals in ms, ttl of the worker's hash in ms,
--       characters buffered in the worker, most that it may buffer, then two per number: field,
--       increment
-- Returns 1.

local all, own = unpack(KEYS)
local number, all_ttl_ms, own_ttl_ms, chars, most = unpack(ARGV, 1, 5)
local is_new = redis.call('HGET', own, 'report') ~= number
redis.call('HSET', own, 'report', number, 'buffer_chars', chars, 'buffer_most', most)
redis.call('PEXPIRE', own, own_ttl_ms)
if is_new then
  for n = 6, #ARGV, 2 do
    -- pcall: a field that is not a number, set by another program, must not stop the others.
    redis.pcall('HINCRBY', all, ARGV[n], ARGV[n + 1])
  end
  redis.call('PEXPIRE', all, all_ttl_ms)
end
return 1
