-- Close a batch to new lines permanently: its input is complete, or the batch is cancelled.
--
-- KEYS  batch, lines
-- ARGV  channel, 'total' | 'cancel', for 'total' how many lines must have been added and for 'cancel'
--       the time, epoch ms; then two per line whose job may be lost: line, arq id
-- Returns 1; 0 when there is no such batch; -1 when fewer lines were added: Redis has lost some.

local batch, lines, channel, what, value = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', batch) == 0 then
  return 0
end
if what == 'total' then
  local added, total = unpack(redis.call('HMGET', batch, 'added', 'total'))
  local least = tonumber(value)
  value = added or '0'
  if tonumber(total or value) < least then
    return -1
  end
end
redis.call('HSETNX', batch, what, value)
for n = 4, #ARGV, 2 do
  local line, id = ARGV[n], ARGV[n + 1]
  if redis.call('ZSCORE', lines, line) == '0'
    and redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) == 0 then
    redis.call('ZREM', lines, line)
    redis.call('HINCRBY', batch, 'added', -1)
  end
end
redis.call(PUBLISH, channel, what)
return 1
