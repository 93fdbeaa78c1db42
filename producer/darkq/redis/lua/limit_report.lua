-- Record the state of an upstream's calls: free their places, move the breaker, find who may go.
--
-- The breaker opens when a worker requests it, and is half-open once the cool-down has passed: the next
-- job that asks is the probe. An answer to the probe closes the breaker; its failure doubles the
-- cool-down. A probe that ends without either makes room for another one.
--
-- KEYS  as in limits.lua
-- ARGV  after those of limits.lua three per call: call, word, argument. The words:
--       calling    in progress, no answer yet
--       answering  in progress, and the service has answered; how many ms ago
--       answered   in progress; the service has just answered
--       left       has ended; says nothing about the service
--       alive      has ended; the service works
--       failed     has ended; the service does not work; 1 if the breaker is to open
--       limited    has ended with a 429; ms to stay away, 0 if the service did not say
--       and of a waiting job, with its arq id in place of a call:
--       gone       is in no queue any more
--       away       its partition does not answer: others may pass it, and it keeps its rank
-- Returns 1 if the breaker is not closed; and the jobs to make due, as in limits.lua.

local function close()
  redis.call('HDEL', breaker, 'open_until', 'cooldown_ms', 'probe', 'probe_until')
end

local function open(cooldown_ms)
  redis.call('HSET', breaker, 'open_until', score(now + cooldown_ms), 'cooldown_ms', cooldown_ms)
  redis.call('HDEL', breaker, 'probe', 'probe_until')
end

-- If the service names no time: the shortest window, and a longer one with each further breach,
-- since a 429 does not say which window is full.
local function block(wait_ms)
  local blocked_until, breaches = breaker_field('blocked_until'), breaker_field('breaches')
  if now >= blocked_until then -- else the call began before the block: the same breach
    breaches = redis.call('HINCRBY', breaker, 'breaches', 1)
  end
  local window = windows[math.max(1, math.min(breaches, #windows))]
  local until_ms = now + math.max(wait_ms, window and window.ms or 0)
  redis.call('HSET', breaker, 'blocked_until', score(math.max(until_ms, blocked_until)))
end

-- Add again what has expired or was lost while Redis was away.
local function renew(call, word, argument, is_probe)
  if concurrency > 0 then
    redis.call('ZADD', places, score(now + lease_ms), call)
  end
  if word == 'calling' and #windows > 0 then
    redis.call('ZADD', grants, score(now + lease_ms), call)
  elseif #windows > 0 and (tonumber(argument) or longest_ms) < longest_ms then
    redis.call('ZADD', grants, 'LT', score(now - argument), call)
  end
  if is_probe then
    redis.call('HSET', breaker, 'probe_until', score(now + lease_ms))
  end
end

local function ended(call, word, argument, is_probe)
  redis.call('ZREM', places, call)
  if word == 'failed' and is_probe then
    open(math.min(breaker_field('cooldown_ms') * 2, tonumber(ARGV[5])))
  elseif word == 'failed' and argument == '1'
    and redis.call('HEXISTS', breaker, 'open_until') == 0 then
    open(tonumber(ARGV[4]))
  elseif word == 'limited' then
    block(tonumber(argument))
  end
  if is_probe and word == 'left' then
    redis.call('HDEL', breaker, 'probe', 'probe_until')
  elseif is_probe and word ~= 'failed' then
    close()
  end
end

for n = first_arg, #ARGV, 3 do
  local call, word, argument = unpack(ARGV, n, n + 2)
  local is_probe = redis.call('HGET', breaker, 'probe') == call
  if word == 'gone' then
    forget(call)
  elseif word == 'away' then
    set_aside(call)
  elseif word == 'calling' or word == 'answering' then
    renew(call, word, argument, is_probe)
  else
    local reached_ms = tonumber(redis.call('ZSCORE', grants, call) or 0)
    if reached_ms > now then
      redis.call('ZADD', grants, score(now), call) -- it has reached the service by now
    end
    if word ~= 'answered' then
      ended(call, word, argument, is_probe)
    else
      redis.call('HDEL', breaker, 'breaches')
      if is_probe then
        close()
      end
    end
  end
end
local reply = { is_shut() and 1 or 0, called() }
expire()
return reply
