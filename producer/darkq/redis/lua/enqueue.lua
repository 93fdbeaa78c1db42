-- Store jobs that do not exist yet, as far as their queues have room, and wake workers.
--
-- Most of what a call costs is its arguments: keys that can be made from an id are.
--
-- A closed queue takes no new job. A line of a batch waits, as it does for room. What does not fit into
-- the memory that is left to producers is refused, all jobs of the call or none.
--
-- KEYS  two per kind of job: queue, list of the tenant's jobs; then one per job that has an
--       idempotency key, in order; then the partition's control
-- ARGV  wake channel, ttl of a job in ms, most jobs in a queue, most in a list, `queued` event,
--       number of kinds, number of jobs, then four per job: arq id, job record, its kind (from 0),
--       digest of the content ('' without idempotency key); if they are lines of a batch, its id
--       and then their numbers
-- Returns three per job that is not new: its number (from 0), 'duplicate' | 'conflict' | 'full' | 'closed'
-- | 'memory', and the arq id to go on with; of a line also 'acknowledged' | 'wait' | 'closed' (the batch) | 'cancelled'
-- | 'gone'.

local wake, ttl_ms, limit, listed, queued = unpack(ARGV, 1, 5)
local kinds, jobs = tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000

-- The job that an idempotency key stands for, as long as anything of it is left.
local function known_by(key)
  local digest, id = string.match(redis.call('GET', key) or '', '^(%x+) (.+)$')
  if id and redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 then
    return digest, id
  end
end

local control, closed = KEYS[#KEYS], {}
local function is_closed(queue)
  if closed[queue] == nil then
    closed[queue] = redis.call('HGET', control, 'closed:' .. string.match(queue, '%l+$')) and true
  end
  return closed[queue]
end

local fits
local function fits_into_memory()
  if fits == nil then
    local bytes = 0
    for n = 0, jobs - 1 do
      bytes = bytes + #ARGV[n * 4 + 9]
    end
    fits = has_room(bytes)
  end
  return fits
end

local batch_id = ARGV[8 + jobs * 4]
local batch = batch_id and find_batch(batch_id)

local template -- of a fresh log; a copy takes 0.3 KB, where a new stream sets 4 KB aside
local function begin_log(id)
  if not template then
    template = 'darkq:events:' .. id .. ':template'
    redis.call('XADD', template, '0-1', 'e', queued)
    redis.call('PEXPIRE', template, ttl_ms * 2) -- so that the end of an expired job can be told
  end
  redis.call('COPY', template, 'darkq:events:' .. id, 'REPLACE')
end

-- What is new, by the number of its queue's and its list's key.
local news, lengths = {}, {}
local function enter(key, place, id)
  local found = news[key] or {}
  news[key] = found
  found[#found + 1], found[#found + 2] = place, id
end

local replies, stored, remembered = {}, 0, kinds * 2
for n = 0, jobs - 1 do
  local id, record, kind, digest = unpack(ARGV, n * 4 + 8, n * 4 + 11)
  local queue, list = kind * 2 + 1, kind * 2 + 2
  local job, result = 'arq:job:' .. id, 'arq:result:' .. id
  local known_digest, known_id
  if digest ~= '' then
    remembered = remembered + 1
    known_digest, known_id = known_by(KEYS[remembered])
  end
  local line = batch and ARGV[9 + jobs * 4 + n]
  local length = lengths[KEYS[queue]] or redis.call('ZCARD', KEYS[queue])
  local verdict = batch_id and (not batch and 'gone' or refusal(batch, line, job, result))
  if verdict then
    -- as the batch says
  elseif known_id then
    verdict = known_digest == digest and 'duplicate' or 'conflict'
  elseif redis.call('EXISTS', job, result) > 0 then
    verdict = 'duplicate'
  elseif is_closed(KEYS[queue]) then
    verdict = batch and 'full' or 'closed'
  elseif length >= tonumber(limit) then
    verdict = 'full'
  elseif not fits_into_memory() then
    verdict = batch and 'full' or 'memory'
  else
    redis.call('SET', job, record, 'PX', ttl_ms)
    begin_log(id)
    -- Microseconds and the place in this call keep first in, first out.
    local place = string.format('%.3f', now_ms + stored / 1000)
    enter(queue, place, id)
    if not batch then -- which keeps its own
      enter(list, place, id)
    end
    if digest ~= '' then
      redis.call('SET', KEYS[remembered], digest .. ' ' .. id, 'PX', ttl_ms)
    end
    if batch then
      add_line(batch, line, id)
    end
    stored, length = stored + 1, length + 1
  end
  lengths[KEYS[queue]] = length
  if verdict then
    replies[#replies + 1] = n
    replies[#replies + 1] = verdict
    replies[#replies + 1] = known_id or id
  end
end
for key, found in pairs(news) do
  redis.call('ZADD', KEYS[key], unpack(found))
  if key % 2 == 1 then
    wake_workers(wake, KEYS[key], #found / 2)
  else -- a list
    redis.call('ZREMRANGEBYRANK', KEYS[key], 0, -listed - 1)
    redis.call('PEXPIRE', KEYS[key], ttl_ms * 2)
  end
end
if template then
  redis.call('DEL', template)
end
if batch and stored > 0 then
  keep_batch(batch)
end
return replies
