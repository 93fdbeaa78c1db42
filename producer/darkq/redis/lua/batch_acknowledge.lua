-- Record that ends of a batch's jobs have been taken over, and delete what was kept for that.
--
-- The caller names each end by its number and its stamp (`end_line.lua`), in the order of the log.
-- After a roll-back of Redis a number may belong to another end, or to none. Then the ends before the
-- first such one are acknowledged, the rest is left, and the caller reads again.
--
-- The ends of a page that is stored as a part of a file are acknowledged together or not at all. The
-- part is recorded in the same step, so a recorded part holds exactly the acknowledged ends.
--
-- A line whose result had expired counts as not ended, and has to be added again.
--
-- KEYS  batch, lines, ends, acknowledged, runner, parts
-- ARGV  batch id, token, lease in ms, ttl in ms, how many ends to keep for those who follow the
--       batch, channel, part ('' for none), its ttl in ms, number of the first end, then two per
--       end: stamp, and '1' if its result had expired, 'keep' if it is to stay until it does
-- Returns how many of the ends are acknowledged now; 'gone', or the token of the other process
-- that runs the batch.

local batch, lines, ends, acknowledged, runner, parts = unpack(KEYS)
local id, token, lease_ms, ttl_ms, kept, channel, part, part_ttl_ms = unpack(ARGV, 1, 8)
local first, count = tonumber(ARGV[9]), (#ARGV - 9) / 2
local holder = redis.call('GET', runner)
if holder and holder ~= token then
  return holder
end
if redis.call('EXISTS', batch) == 0 then
  return 'gone'
end
redis.call('SET', runner, token, 'PX', lease_ms)
local taken = tonumber(redis.call('HGET', batch, 'acknowledged') or 0)
local entries = redis.call('XRANGE', ends, first .. '-0', (first + count - 1) .. '-0')
local matched = 0
if first > taken + 1 then -- Redis has lost an earlier acknowledgement
  return 0
end
for n = 1, count do
  local entry = entries[n]
  if not entry or entry[1] ~= (first + n - 1) .. '-0' or (entry[2][8] or '') ~= ARGV[8 + 2 * n] then
    break
  end
  matched = n
end
if part ~= '' then
  local noted = redis.call('ZSCORE', parts, part)
  if matched < count or not noted and first ~= taken + 1 then
    return 0
  end
  redis.call('ZADD', parts, first, part)
  redis.call('PEXPIRE', parts, part_ttl_ms)
end
for n = taken - first + 2, matched do
  local line, outcome, job_id = entries[n][2][2], entries[n][2][4], entries[n][2][6]
  taken = taken + 1
  if ARGV[9 + 2 * n] ~= 'keep' then
    redis.call('DEL', 'arq:result:' .. job_id, 'darkq:events:' .. job_id)
  end
  if ARGV[9 + 2 * n] == '1' then
    redis.call('ZADD', lines, 0, line)
    redis.call('HINCRBY', batch, outcome, -1)
  else
    redis.call('ZREM', lines, line)
    redis.call('SETBIT', acknowledged, line, 1)
  end
end
redis.call('HSET', batch, 'acknowledged', taken)
-- One more is kept. So a cursor just before the kept ends can be checked against a roll-back.
redis.call('XTRIM', ends, 'MINID', math.max(0, taken - tonumber(kept)) .. '-0')
for _, key in ipairs({ batch, lines, ends, acknowledged }) do
  redis.call('PEXPIRE', key, ttl_ms)
end
redis.call(PUBLISH, channel, 'acknowledged')
return matched
