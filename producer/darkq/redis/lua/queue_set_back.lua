-- Correct the scores of a queue after the clock of Redis was set back.
--
-- All scores were set by the old clock, so each job would wait for as long as the clock was set back.
-- Scores in the future are lowered by that time. Jobs that waited are due again, in the same order and
-- before those that came since; a delay or a lease keeps the time that it had left.
--
-- A lease that was renewed since is left alone: its key lives for less time than the clock was set back.
-- Several workers may call this for one step of the clock. A delay that is moved twice ends early.
--
-- KEYS  queue
-- ARGV  ms by which the clock was set back, more than a lease; lease in ms; score to begin at ('': now);
--       most jobs of this call
-- Returns the score at which the next call begins, '' when nothing is left.

local queue = KEYS[1]
local back_ms, lease_ms, from, most = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
if from == '' then
  from = string.format('(%.3f', time[1] * 1000 + time[2] / 1000)
end

local function lease_left_ms(id)
  local tag, random = string.match(id, '^({%d+})([0-9a-f]+)$')
  local is_id = tag ~= nil and #random == 32 and tag == string.match(queue, '{%d+}')
  return is_id and redis.call('PTTL', 'arq:in-progress:' .. id) or -2
end

local moved = false
local found = redis.call('ZRANGEBYSCORE', queue, from, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
for n = 1, #found, 2 do
  local id, left_ms = found[n], lease_left_ms(found[n])
  if left_ms > back_ms then
    redis.call('PEXPIRE', 'arq:in-progress:' .. id, math.max(lease_ms, left_ms - back_ms))
  end
  if left_ms > back_ms or left_ms <= 0 then
    redis.call('ZADD', queue, 'XX', string.format('%.3f', found[n + 1] - back_ms), id)
    moved = true
  end
end
if #found < 2 * most then
  return ''
end
local last = found[#found]
-- Other jobs may have the last score, too. If nothing was moved, go past it, or the page would repeat.
return not moved and last == found[2] and '(' .. last or last
