-- Give a worker the due jobs of a partition, most urgent queue first, under a lease.
--
-- A claimed job's score is its lease's end: it leaves the range that claims look at, and
-- comes back by itself when nobody renews it. Job keys are made from ids found in the queues;
-- they carry the queues' hash tag. What can be no id is thrown out.
--
-- After an outage every lease has run out, and most owners are alive: a caller that knows of one
-- asks for a respite, in which such jobs are left to their owners.
--
-- KEYS  the queues
-- ARGV  worker id, lease in ms, ttl of a job in ms, respite in ms (0: none), slots,
--       then per queue the slots it may take
-- Returns ms until the next job is due in a queue it may take from (-1: none waits there), then
-- eight per claimed job: arq id, number of its queue (from 0), attempt, tries burnt, leases
-- lost, 1 if it is to be cancelled, job record ('' if it has expired), its score until now

local worker, lease_ms, ttl_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local respite_ms, free = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000

local function score(ms)
  return string.format('%.3f', ms)
end

local function is_id(queue, id)
  local tag, random = string.match(id, '^({%d+})([0-9a-f]+)$')
  return tag ~= nil and #random == 32 and tag == string.match(queue, '{%d+}')
end

local function claim(queue, number, id, place)
  if not is_id(queue, id) then
    redis.call('ZREM', queue, id)
    return
  end
  local in_progress, state = 'arq:in-progress:' .. id, 'darkq:state:' .. id
  local held_ms = redis.call('PTTL', in_progress) -- it may end a moment after its score
  if held_ms <= 0 and respite_ms > 0 and redis.call('HEXISTS', state, 'held') == 1 then
    held_ms = respite_ms
  end
  if held_ms > 0 then
    redis.call('ZADD', queue, 'XX', score(now_ms + held_ms), id)
    return
  end
  local attempt = redis.call('INCR', 'arq:retry:' .. id)
  local token = worker .. ':' .. attempt
  redis.call('SET', in_progress, token, 'PX', lease_ms)
  redis.call('ZADD', queue, 'XX', score(now_ms + lease_ms), id)
  -- Still held, though claimable: its worker died or lost touch.
  local lost = redis.call('HSETNX', state, 'held', '1') == 0
    and redis.call('HINCRBY', state, 'lost', 1) or tonumber(redis.call('HGET', state, 'lost')) or 0
  redis.call('PEXPIRE', 'arq:job:' .. id, ttl_ms)
  for _, key in ipairs({ 'arq:retry:' .. id, 'darkq:events:' .. id, state }) do
    redis.call('PEXPIRE', key, ttl_ms * 2) -- they outlive the record, to tell of its end
  end
  return {
    id, number, attempt,
    tonumber(redis.call('HGET', state, 'tries')) or 0, lost,
    redis.call('HEXISTS', state, 'cancel'), redis.call('GET', 'arq:job:' .. id) or '', place,
  }
end

local reply, next_ms = { 0 }, nil
for number, queue in ipairs(KEYS) do
  local wanted = math.min(free, tonumber(ARGV[5 + number]))
  if wanted > 0 then
    local due = redis.call(
      'ZRANGEBYSCORE', queue, '-inf', score(now_ms), 'WITHSCORES', 'LIMIT', 0, wanted)
    for n = 1, #due, 2 do
      local job = claim(queue, number - 1, due[n], due[n + 1])
      if job then
        free = free - 1
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
reply[1] = next_ms and math.max(0, math.ceil(next_ms - now_ms)) or -1
return reply
