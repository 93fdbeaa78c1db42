-- Say for good that a batch's input is complete, or that the batch is cancelled.
--
-- KEYS  batch, lines
-- ARGV  channel, 'total' | 'cancel', then two per line whose job may be lost: line, arq id
-- Returns 1, or 0 when there is no such batch.

local batch, lines, channel, what = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
if redis.call('EXISTS', batch) == 0 then
  return 0
end
local value = what == 'total' and (redis.call('HGET', batch, 'added') or '0') or '1'
redis.call('HSETNX', batch, what, value)
for n = 3, #ARGV, 2 do
  local line, id = ARGV[n], ARGV[n + 1]
  if redis.call('ZSCORE', lines, line) == '0'
    and redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) == 0 then
    redis.call('ZREM', lines, line)
    redis.call('HINCRBY', batch, 'added', -1)
  end
end
redis.call(PUBLISH, channel, what)
return 1
