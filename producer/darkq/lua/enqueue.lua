-- Store jobs that do not exist yet, as far as their queues have room, and wake the workers once.
--
-- KEYS  five per job: queue, job, result, events, idempotency
-- ARGV  wake channel, ttl of a job in ms, most jobs in a queue, then four per job:
--       arq id, job record, `queued` event, digest of the content ('' without idempotency key)
-- Returns two per job: 'new' | 'duplicate' | 'conflict' | 'full', and the arq id to go on with.

local wake, ttl_ms, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000

-- The job that an idempotency key stands for, as long as anything of it is left.
local function known_by(key)
  local digest, id = string.match(redis.call('GET', key) or '', '^(%x+) (.+)$')
  if id and redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 then
    return digest, id
  end
end

local replies, stored = {}, 0
for n = 0, #KEYS / 5 - 1 do
  local queue, job, result, events, idempotency = unpack(KEYS, n * 5 + 1, n * 5 + 5)
  local id, record, event, digest = unpack(ARGV, n * 4 + 4, n * 4 + 7)
  local known_digest, known_id
  if digest ~= '' then
    known_digest, known_id = known_by(idempotency)
  end
  local verdict = 'new'
  if known_id then
    verdict = known_digest == digest and 'duplicate' or 'conflict'
    id = known_id
  elseif redis.call('EXISTS', job, result) > 0 then
    verdict = 'duplicate'
  elseif redis.call('ZCARD', queue) >= limit then
    verdict = 'full'
  else
    redis.call('SET', job, record, 'PX', ttl_ms)
    -- Microseconds and the place in this call keep first in, first out.
    redis.call('ZADD', queue, string.format('%.3f', now_ms + stored / 1000), id)
    redis.call('DEL', events)
    redis.call('XADD', events, '0-1', 'e', event)
    redis.call('PEXPIRE', events, ttl_ms * 2) -- so that the end of an expired job can be told
    if digest ~= '' then
      redis.call('SET', idempotency, digest .. ' ' .. id, 'PX', ttl_ms)
    end
    stored = stored + 1
  end
  replies[#replies + 1] = verdict
  replies[#replies + 1] = id
end
if stored > 0 then
  redis.call('PUBLISH', wake, 'jobs')
end
return replies
