-- Store the progress of a batch over files, if the caller still runs it.
--
-- The record must be in the state that the caller read. So a final state is never left, and a runner
-- that has lost its lease cannot undo what its successor did.
--
-- KEYS  record, runner, outputs
-- ARGV  the runner's token, the state as the caller read it, record, ttl in ms,
--       then the ids of the files that the caller is about to assemble
-- Returns '' | 'gone', or who has changed it: the token of the other runner, or 'another runner'.

local key, runner, outputs = unpack(KEYS)
local token, expected, record, ttl_ms = unpack(ARGV, 1, 4)
local known, holder = redis.call('GET', key), redis.call('GET', runner)
if not known then
  return 'gone'
end
if holder and holder ~= token then
  return holder
end
if known ~= record then -- else this call was sent twice
  local readable, fields = pcall(cjson.decode, known)
  if not readable or (fields.state or 'validating') ~= expected then
    return 'another runner'
  end
  redis.call('SET', key, record, 'PX', ttl_ms)
end
for n = 5, #ARGV do
  redis.call('ZADD', outputs, 0, ARGV[n])
  redis.call('PEXPIRE', outputs, ttl_ms)
end
return ''
