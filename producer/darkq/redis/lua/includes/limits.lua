-- What an upstream allows to all workers together. Included by `limit_admit` and `limit_report`.
--
-- grants   recent calls; score = the latest time at which a call can have reached the service. That
--          is the end of its lease until the service has answered, then the time of the answer. So we
--          never count fewer calls than the service does, however slow the network is.
-- places   calls in progress; score = the end of their lease
-- waiting  jobs that were put off, in the order in which they will be admitted
-- due      the same jobs; score = when they come back to ask
-- late     jobs that did not come when they were due; score = their rank in `waiting`. They do not
--          hold up other jobs, and get their rank back when they come
-- breaker  hash: open_until and cooldown_ms while it is open or half-open; probe and probe_until,
--          the call that tests the service; blocked_until and breaches, set by a 429
-- `heard`  string: when a script last ran here, and until when no call is admitted
--
-- Workers renew their calls four times per lease. If no script ran for half a lease, either Redis
-- or all workers were away, and leases of running calls may have expired. Then no call is admitted for
-- half a lease, so that each worker can first renew its own calls.
--
-- KEYS  those seven
-- ARGV  concurrency (0: no limit), lease, longest time for which a job is put off, first and longest
--       cool-down of the breaker, number of windows, then per window: calls, length; all times in
--       ms; after these the script's own arguments

local grants, places, waiting, due, breaker, late, heard = unpack(KEYS)
local concurrency, lease_ms, horizon_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local windows, first_arg, longest_ms = {}, 7 + 2 * ARGV[6], 0
for n = 7, first_arg - 1, 2 do
  windows[#windows + 1] = { count = tonumber(ARGV[n]), ms = tonumber(ARGV[n + 1]) }
  longest_ms = math.max(longest_ms, windows[#windows].ms)
end

local MOST_CALLED = 100 -- in one reply
local CALL_AGAIN_MS = 200 -- for a job that is due or was called, and has not come yet
local PLACE_WAIT_MAX_MS = 600000 -- a free place has no known time; it calls jobs earlier
local OUTAGE_MS = 3600000 -- for so long calls are remembered while no script runs
local MOST_LATE = 10000
local PRIORITY_SPAN = 4e12 -- above any time in ms, so that ranks sort by priority first

local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

local function score(ms)
  return string.format('%.3f', ms)
end

local function breaker_field(name)
  return tonumber(redis.call('HGET', breaker, name) or 0)
end

local function is_shut() -- the breaker is not closed: workers must ask, even without other limits
  return redis.call('HEXISTS', breaker, 'open_until') == 1 or now < breaker_field('blocked_until')
end

local in_order = #windows > 0 or concurrency > 0
local function read_heard()
  local at, respite = string.match(redis.call('GET', heard) or '', '^([%d.]+) ([%d.]+)$')
  return tonumber(at), tonumber(respite) or 0
end

-- Return until when no call is admitted: unknown calls may be in progress after an outage.
local function respite_until()
  local at, until_ms = read_heard()
  if in_order and at and now - at > lease_ms / 2 and (redis.call('EXISTS', places) == 1
    or redis.call('ZCOUNT', grants, '(' .. score(at), '+inf') > 0) then
    return now + lease_ms / 2
  end
  return until_ms
end
local no_call_until = respite_until()

local function expire()
  if in_order then
    redis.call('SET', heard, score(now) .. ' ' .. score(no_call_until), 'PX', OUTAGE_MS)
  end
  redis.call('PEXPIRE', grants, math.ceil(longest_ms + lease_ms + OUTAGE_MS))
  redis.call('PEXPIRE', places, lease_ms + OUTAGE_MS)
  redis.call('PEXPIRE', waiting, horizon_ms + lease_ms * 2)
  redis.call('PEXPIRE', due, horizon_ms + lease_ms * 2)
  local busy_ms = math.max(breaker_field('open_until'), breaker_field('blocked_until'), now) - now
  redis.call('PEXPIRE', breaker, math.ceil(busy_ms + longest_ms + lease_ms + 2 * ARGV[5]))
end

-- Return how many calls may begin now.
local function room()
  local free = math.huge
  if now < math.max(breaker_field('blocked_until'), no_call_until) then
    return 0
  end
  if redis.call('HEXISTS', breaker, 'open_until') == 1 then
    if now < breaker_field('open_until') or now < breaker_field('probe_until') then
      return 0
    end
    free = 1
  end
  for _, window in ipairs(windows) do
    local inside = redis.call('ZCOUNT', grants, '(' .. score(now - window.ms), '+inf')
    free = math.min(free, window.count - inside)
  end
  if concurrency > 0 then
    free = math.min(free, concurrency - redis.call('ZCOUNT', places, '(' .. score(now), '+inf'))
  end
  return free
end

-- Return when a window has room for a call that has so many others before it.
local function window_turn(window, ahead)
  local place, rounds = ahead % window.count, math.floor(ahead / window.count)
  local inside = redis.call('ZCOUNT', grants, '(' .. score(now - window.ms), '+inf')
  local begin = now
  if place >= window.count - inside then
    local number = redis.call('ZCARD', grants) - window.count + place
    local grant = redis.call('ZRANGE', grants, number, number, 'WITHSCORES')
    begin = math.min(tonumber(grant[2]), now) + window.ms
  end
  return begin + rounds * window.ms
end

-- Return when a job with so many others before it asks again; too early is better than too late.
local function turn(ahead)
  local at = math.max(now + 10, breaker_field('blocked_until'), no_call_until)
  if redis.call('HEXISTS', breaker, 'open_until') == 1 then
    local open_until = breaker_field('open_until')
    local shut_until = now < open_until and open_until or now + breaker_field('cooldown_ms')
    at = math.max(at, shut_until + ahead) -- 1 ms apart, so that a long queue does not come at once
  end
  for _, window in ipairs(windows) do
    at = math.max(at, window_turn(window, ahead))
  end
  if concurrency > 0 then
    local behind = ahead - concurrency + redis.call('ZCOUNT', places, '(' .. score(now), '+inf')
    if behind >= 0 then
      local wait_ms = lease_ms * (1 + math.floor(behind / concurrency))
      at = math.max(at, now + math.min(wait_ms, PLACE_WAIT_MAX_MS))
    end
  end
  return math.min(at, now + horizon_ms) + ahead / 1000 -- keeps the order of equal turns
end

local function forget(id)
  redis.call('ZREM', waiting, id)
  redis.call('ZREM', due, id)
  redis.call('ZREM', late, id)
end

-- Let other jobs pass one that does not come, and remember its rank.
local function set_aside(id)
  local rank = redis.call('ZSCORE', waiting, id)
  forget(id)
  if rank then
    redis.call('ZADD', late, rank, id)
    if redis.call('ZCARD', late) > MOST_LATE then
      redis.call('ZREM', late, redis.call('ZRANGE', late, 0, 0)[1])
    end
    redis.call('PEXPIRE', late, horizon_ms + lease_ms * 2)
  end
end

-- Return the first waiting jobs, as many as there is room for, without those just made due.
-- Three fields each: arq id, number of the priority (from 0), place in the queue.
local function called()
  local reply, free = {}, room()
  if free <= 0 then
    return reply
  end
  local first = redis.call('ZRANGE', waiting, 0, math.min(free, MOST_CALLED) - 1, 'WITHSCORES')
  for n = 1, #first, 2 do
    local id, rank = first[n], tonumber(first[n + 1])
    local due_ms = tonumber(redis.call('ZSCORE', due, id) or 0)
    if free == math.huge then
      forget(id) -- nothing is limited any more, so no order is kept
    elseif due_ms > now then
      redis.call('ZADD', due, score(now), id)
    end
    if free == math.huge or due_ms > now or due_ms < now - CALL_AGAIN_MS then
      local number = math.floor(rank / PRIORITY_SPAN) + 1
      reply[#reply + 1] = id
      reply[#reply + 1] = number
      reply[#reply + 1] = score(rank - (number - 1) * PRIORITY_SPAN)
    end
  end
  return reply
end

drop(places, score(now))
drop(grants, score(now - longest_ms))
local missed = redis.call('ZRANGEBYSCORE', due, '-inf', score(now - lease_ms), 'LIMIT', 0, 100)
for _, id in ipairs(missed) do
  set_aside(id)
end
