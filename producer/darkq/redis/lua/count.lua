-- Add what a worker has counted since it last did to what all have, once however often it is sent.
--
-- KEYS  what all have counted, what this worker tells of itself
-- ARGV  number of the report, ttl of the first in ms, ttl of the second in ms,
--       characters that wait in the worker, how many may, then two per number: field, increment

local all, own = unpack(KEYS)
local number, all_ttl_ms, own_ttl_ms, chars, most = unpack(ARGV, 1, 5)
local is_new = redis.call('HGET', own, 'report') ~= number
redis.call('HSET', own, 'report', number, 'buffer_chars', chars, 'buffer_most', most)
redis.call('PEXPIRE', own, own_ttl_ms)
if is_new then
  for n = 6, #ARGV, 2 do
    -- What somebody else has put there, and is no number, stops nothing else.
    redis.pcall('HINCRBY', all, ARGV[n], ARGV[n + 1])
  end
  redis.call('PEXPIRE', all, all_ttl_ms)
end
return 1
