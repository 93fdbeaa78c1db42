-- Delete a job that has ended: its result, its event log, and the record kept to run it again.
--
-- KEYS  result, events, failed record, list of failures
-- ARGV  arq id
-- Returns 1, or 0 when the job has not ended and nothing was changed.

local result, events, kept, failures = unpack(KEYS)
if redis.call('DEL', result) == 0 then
  return 0
end
redis.call('DEL', events, kept)
redis.call('ZREM', failures, ARGV[1])
return 1
