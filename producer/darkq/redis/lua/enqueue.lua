-- Store jobs that do not exist yet, as far as their queues have room, and wake workers.
--
-- Most of the cost of a call is its arguments, so keys that can be built from an id are not passed.
--
-- A closed queue takes no new job; a line of a batch waits then, as it does when the queue is full. If
-- the jobs of a call do not fit into the memory that producers may fill, all of them are refused.
--
-- KEYS  two per kind of job (its priority and tenant): queue, list of the tenant's jobs; then one per
--       job that has an idempotency key, in order; then the partition's control
-- ARGV  wake channel, ttl of a job in ms, most jobs in a queue, most in a list, `queued` event,
--       number of kinds, number of jobs, then four per job: arq id, job record, its kind (from 0),
--       digest of the content ('' without idempotency key); for lines of a batch also the batch's id
--       and then the numbers of the lines
-- Returns three per job that is not new: its number (from 0), 'duplicate' | 'conflict' | 'full' |
-- 'closed' | 'memory', and the arq id to use from now on; for a line also 'acknowledged' | 'wait' |
-- 'closed' (the batch) | 'cancelled' | 'gone'.

local wake, ttl_ms, limit, listed, queued = unpack(ARGV, 1, 5)
local kinds, jobs = tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000

-- Return digest and id of an idempotency key's job, while its record or its result exists.
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

local template -- of a fresh log: a copy takes 0.3 KB, a new stream 4 KB
local function begin_log(id)
  if not template then
    template = 'darkq:events:' .. id .. ':template'
    redis.call('XADD', template, '0-1', 'e', queued)
    redis.call('PEXPIRE', template, ttl_ms * 2) -- so that the end of an expired job can be logged
  end
  redis.call('COPY', template, 'darkq:events:' .. id, 'REPLACE')
end

-- Scores and ids to add, by the number of the key: of a queue, or of a tenant's list.
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
    -- decided by the batch
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
    -- Microseconds plus the position in this call keep the order first in, first out.
    local place = string.format('%.3f', now_ms + stored / 1000)
    enter(queue, place, id)
    if not batch then -- which lists its own lines
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
  else -- a tenant's list
    redis.call('ZREMRANGEBYRANK', KEYS[key], 0, -listed - 1)
    redis.call('PEXPIRE', KEYS[key], ttl_ms * 2)
  end
end
if template then
  redis.call('DEL', template)
end
if batch and stored > 0 then
  store_batch(batch)
end
return replies
