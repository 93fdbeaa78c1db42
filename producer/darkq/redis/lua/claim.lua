-- Give a worker the due jobs of a partition under a lease, the most urgent queue first.
--
-- A claimed job gets the end of its lease as its score. So it leaves the range that claims read, and
-- becomes due again by itself if no worker renews the lease. Job keys are built from the ids in the
-- queues; they contain the queues' hash tag. A member that is not an id is removed from its queue.
-- So is a job with a key of a wrong type, or with an event log that accepts no further event.
--
-- A suspect is a job that ends with its next lost lease: it may be what kills its workers, or may
-- have run beside such a job. A worker runs one suspect at a time, so that one cannot end because of
-- another. A suspect that cannot be claimed now is put off; else many would hide the jobs behind.
--
-- After an outage every lease has expired, but most owners are alive. A worker that has seen an outage
-- asks for a respite, during which such jobs are left to their owners.
--
-- A server that was frozen first runs old calls whose senders no longer wait. So each call has a time,
-- by this server's clock, until which it counts. A later call changes nothing and returns the time.
--
-- A paused queue gives out only jobs that are to be ended, as long as one is first in it: a job that
-- has expired, or that is to be cancelled.
--
-- A worker that has free slots left is added to the workers to wake: see `wake.lua`.
--
-- KEYS  the queues, then the partition's control
-- ARGV  worker id, lease in ms, ttl of a job in ms, respite in ms (0: none), slots, number of lost
--       leases that makes a suspect (0: none is), suspects it may take, epoch ms until which the call
--       counts, then per queue the slots it may take
-- Returns epoch ms (and nothing more if the call came too late), ms until the next job is due in a
-- queue that has slots (-1: none waits there), then nine per claimed job: arq id, number of its queue
-- (from 0), attempt, tries burnt, leases lost, flags (1: to be cancelled, 2: just lost a lease), job
-- record ('' if it has expired), its score until now, for how many microseconds it has been due.

local worker, lease_ms, ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local respite_ms, free = tonumber(ARGV[4]), tonumber(ARGV[5])
local last_life, suspects = tonumber(ARGV[6]), tonumber(ARGV[7])
local counts_until_ms = tonumber(ARGV[8])
local FIRST_QUEUE = 8
local PUT_OFF_MS = 1000
local MOST_DIGITS = 12
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000
if now_ms > counts_until_ms then
  return { math.floor(now_ms) }
end
local live_ms = math.max(ttl_ms, 2 * lease_ms) -- of a running job, until `renew` extends it

local function score(ms)
  return string.format('%.3f', ms)
end

local function is_id(queue, id)
  local tag, random = string.match(id, '^({%d+})([0-9a-f]+)$')
  return tag ~= nil and #random == 32 and tag == string.match(queue, '{%d+}')
end

-- Return the reply, or nil if the key has a wrong type. Every other error ends the call.
local function ask(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then
    return reply
  end
  for _, sign in ipairs({ 'WRONGTYPE', 'not an integer', 'would overflow' }) do
    if string.find(tostring(reply.err), sign, 1, true) then
      return nil
    end
  end
  return redis.call(...)
end

-- Return the attempt that wrote last to a job's log, 0 if none did; nil if no attempt can follow it.
local function last_writer(id)
  local last = ask('XREVRANGE', 'darkq:events:' .. id, '+', '-', 'COUNT', 1)
  if last == nil or #last == 0 then
    return last and 0
  end
  local attempt, number = string.match(last[1][1], '^(%d+)%-(%d+)$')
  return #attempt <= MOST_DIGITS and #number <= MOST_DIGITS and tonumber(attempt) or nil
end

local function put_off(queue, id, wait_ms)
  redis.call('ZADD', queue, 'XX', score(now_ms + wait_ms), id)
end

local function claim(queue, number, id, place)
  if not is_id(queue, id) then
    redis.call('ZREM', queue, id)
    return
  end
  local in_progress, state = 'arq:in-progress:' .. id, 'darkq:state:' .. id
  local held_ms = redis.call('PTTL', in_progress) -- the key may outlive the score a little
  local known = ask('HMGET', state, 'held', 'lost', 'tries', 'cancel')
  local record = ask('GET', 'arq:job:' .. id)
  local last = last_writer(id)
  if known == nil or record == nil or last == nil then
    redis.call('ZREM', queue, id)
    return
  end
  local was_held, cancelled = known[1], known[4] and 1 or 0
  -- Held and claimable at once means a lost lease: the worker died or lost its connection.
  local lost = (tonumber(known[2]) or 0) + (was_held and 1 or 0)
  if held_ms <= 0 and respite_ms > 0 and was_held then
    held_ms = respite_ms
  end
  if held_ms > 0 then
    put_off(queue, id, held_ms)
    return
  end
  local is_suspect = last_life > 0 and lost == last_life and cancelled == 0
  if is_suspect and suspects <= 0 then
    put_off(queue, id, PUT_OFF_MS)
    return
  end
  local attempt = ask('INCR', 'arq:retry:' .. id)
  if attempt == nil then
    redis.call('ZREM', queue, id)
    return
  end
  if attempt <= last then -- else the log would refuse its entries
    attempt = last + 1
    redis.call('SET', 'arq:retry:' .. id, attempt)
  end
  suspects = suspects - (is_suspect and 1 or 0)
  local token = worker .. ':' .. attempt
  redis.call('SET', in_progress, token, 'PX', lease_ms)
  put_off(queue, id, lease_ms)
  if was_held then
    redis.call('HSET', state, 'lost', lost)
  else
    redis.call('HSETNX', state, 'held', '1')
  end
  redis.call('PEXPIRE', 'arq:job:' .. id, live_ms)
  for _, key in ipairs({ 'arq:retry:' .. id, 'darkq:events:' .. id, state }) do
    redis.call('PEXPIRE', key, live_ms * 2) -- they outlive the record, to report its end
  end
  return {
    id, number, attempt,
    tonumber(known[3]) or 0, lost, cancelled + (was_held and 2 or 0), record or '', place,
    math.floor((now_ms - place) * 1000),
  }
end

local control = table.remove(KEYS)
local function is_paused(queue)
  return redis.call('HEXISTS', control, 'paused:' .. string.match(queue, '%l+$')) == 1
end

local wake = string.gsub(control, 'control$', 'wake')
local IDLE_MS = 120000 -- longer than any worker sleeps
local taken = {}

-- Add the worker to those to wake if it has free slots; wake others for the due jobs left over.
local function pass_on(queue, number, most)
  local room = math.min(free, most - (taken[number] or 0))
  if room > 0 then
    redis.call('ZADD', idle_workers(queue), -room, worker)
    redis.call('PEXPIRE', idle_workers(queue), IDLE_MS)
  else
    redis.call('ZREM', idle_workers(queue), worker)
  end
  if (room <= 0 or taken[number])
    and #redis.call('ZRANGEBYSCORE', queue, '-inf', score(now_ms), 'LIMIT', 0, 1) > 0
    and not is_paused(queue) then
    wake_workers(wake, queue, 2)
  end
end

-- Return how many jobs to take from a paused queue: its first one, if it is to be ended.
local function to_be_ended(queue)
  local id = redis.call('ZRANGEBYSCORE', queue, '-inf', score(now_ms), 'LIMIT', 0, 1)[1]
  local is_over = id and (not is_id(queue, id) or redis.call('EXISTS', 'arq:job:' .. id) == 0
    or ask('HEXISTS', 'darkq:state:' .. id, 'cancel') == 1)
  return is_over and 1 or 0
end

local RECORD = 7 -- its place in the reply of a job
local MAX_REPLY_BYTES = 4000000 -- a larger reply would block the server for too long
local reply_bytes = 0
local reply, next_ms = { math.floor(now_ms), 0 }, nil
for number, queue in ipairs(KEYS) do
  local wanted = math.min(free, tonumber(ARGV[FIRST_QUEUE + number]))
  if wanted > 0 and is_paused(queue) then
    wanted = to_be_ended(queue)
  end
  if wanted > 0 then
    local due = redis.call(
      'ZRANGEBYSCORE', queue, '-inf', score(now_ms), 'WITHSCORES', 'LIMIT', 0, wanted)
    for n = 1, #due, 2 do
      -- Jobs that are left are due, so the worker calls again at once.
      local job = reply_bytes < MAX_REPLY_BYTES and claim(queue, number - 1, due[n], due[n + 1])
      if job then
        reply_bytes = reply_bytes + #job[RECORD]
        free = free - 1
        taken[number] = (taken[number] or 0) + 1
        for _, field in ipairs(job) do
          reply[#reply + 1] = field
        end
      end
    end
  end
  local first = wanted > 0 and tonumber(redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2])
  if first and not (next_ms and next_ms <= first) then
    next_ms = first
  end
end
for number, queue in ipairs(KEYS) do
  pass_on(queue, number, tonumber(ARGV[FIRST_QUEUE + number]))
end
reply[2] = next_ms and math.max(0, math.ceil(next_ms - now_ms)) or -1
return reply
