-- Take note that ends of a batch's jobs have been taken over, and forget what was kept for that.
--
-- A line whose result had expired before counts as not ended, and is to be added again.
--
-- KEYS  batch, lines, ends, acknowledged, runner
-- ARGV  batch id, token, lease in ms, ttl in ms, number of the last end taken over, how many ends
--       to keep for those who follow the batch, channel, then the lines whose result had expired
-- Returns '' | 'gone', or the token of the other process that runs the batch.

local batch, lines, ends, acknowledged, runner = unpack(KEYS)
local id, token, lease_ms, ttl_ms, through, kept, channel = unpack(ARGV, 1, 7)
local holder = redis.call('GET', runner)
if holder and holder ~= token then
  return holder
end
if redis.call('EXISTS', batch) == 0 then
  return 'gone'
end
redis.call('SET', runner, token, 'PX', lease_ms)
local expired = {}
for n = 8, #ARGV do
  expired[ARGV[n]] = true
end
local number = tonumber(redis.call('HGET', batch, 'acknowledged') or 0)
local entries = redis.call('XRANGE', ends, '(' .. number .. '-0', through .. '-0')
for _, entry in ipairs(entries) do
  local line, outcome, job_id = entry[2][2], entry[2][4], entry[2][6]
  number = tonumber(string.match(entry[1], '%d+'))
  redis.call('DEL', 'arq:result:' .. job_id, 'darkq:events:' .. job_id)
  if expired[line] then
    redis.call('ZADD', lines, 0, line)
    redis.call('HINCRBY', batch, outcome, -1)
  else
    redis.call('ZREM', lines, line)
    redis.call('SETBIT', acknowledged, line, 1)
  end
end
redis.call('HSET', batch, 'acknowledged', number)
redis.call('XTRIM', ends, 'MINID', math.max(0, number - tonumber(kept) + 1) .. '-0')
for _, key in ipairs({ batch, lines, ends, acknowledged }) do
  redis.call('PEXPIRE', key, ttl_ms)
end
redis.call(PUBLISH, channel, 'acknowledged')
return ''
