-- Decide whether jobs may call an upstream now. They ask in the order of their places in the queue.
--
-- No job overtakes another: a job is admitted if there is room for it and for all jobs that wait
-- before it. A job that is not admitted gets its turn: the time at which all windows will have room for
-- it. If only the breaker puts jobs off, no order is kept: workers that have not yet learnt of it run
-- some jobs without asking, and the probe must not wait for those.
--
-- KEYS  as in limits.lua
-- ARGV  after those of limits.lua four per job: call, arq id, number of its priority (0 is the
--       most urgent), its place in the queue
-- Returns 1 if the breaker is not closed; per job 'go', 'probe' (its outcome will close or open
-- the breaker) or the time of its turn, epoch ms; and the jobs to make due, as in limits.lua.

local function is_granted(call) -- true if this call was sent twice: it has its answer
  return redis.call('ZSCORE', grants, call) or redis.call('ZSCORE', places, call)
    or redis.call('HGET', breaker, 'probe') == call
end

local function grant(call, id)
  local answer = 'go'
  if #windows > 0 then
    redis.call('ZADD', grants, score(now + lease_ms), call)
  end
  if concurrency > 0 then
    redis.call('ZADD', places, score(now + lease_ms), call)
  end
  if redis.call('HEXISTS', breaker, 'open_until') == 1 then
    redis.call('HSET', breaker, 'probe', call, 'probe_until', score(now + lease_ms))
    answer = 'probe'
  end
  forget(id)
  return answer
end

local function put_off(id, rank, ahead)
  local turn_ms = turn(ahead)
  redis.call('ZREM', late, id)
  redis.call('ZADD', waiting, 'NX', rank, id)
  redis.call('ZADD', due, score(turn_ms), id)
  return score(turn_ms)
end

local answers, free = {}, room()
for n = first_arg, #ARGV, 4 do
  local call, id, number, place = unpack(ARGV, n, n + 3)
  local rank = redis.call('ZSCORE', late, id) or score(place + (number - 1) * PRIORITY_SPAN)
  local ahead = redis.call('ZRANK', waiting, id) or redis.call('ZCOUNT', waiting, '-inf', '(' .. rank)
  if is_granted(call) then
    answers[#answers + 1] = redis.call('HGET', breaker, 'probe') == call and 'probe' or 'go'
  elseif (in_order and ahead or 0) < free then
    answers[#answers + 1] = grant(call, id)
    free = answers[#answers] == 'probe' and 0 or free - 1
  else
    answers[#answers + 1] = put_off(id, rank, ahead)
  end
end
local reply = { is_shut() and 1 or 0, answers, called() }
expire()
return reply
