-- Append events to event logs, and publish those that were accepted.
--
-- Redis refuses an entry id that is not above the last id of the log, so a superseded attempt cannot
-- write. A log that has expired is not created again. A key of another type refuses all events. The
-- first event of an attempt is also refused if the attempt has ended or was never claimed on this
-- server: then the claim was on a server that a failover has replaced.
--
-- KEYS  the event log of each event; the events of one log are consecutive, in order
-- ARGV  three per event: channel, event id, event
-- Returns the numbers (from 0) of the events that were refused. Once one event of a log is refused,
-- the rest of that log is refused too.

local function is_refusal(words)
  return string.find(words, 'equal or smaller', 1, true) or string.find(words, 'WRONGTYPE', 1, true)
end

local PREFIX = 'darkq:events:'

local function may_begin(events, id)
  local attempt = string.match(id, '^(%d+)%-0$')
  return not attempt
    or redis.pcall('GET', 'arq:retry:' .. string.sub(events, #PREFIX + 1)) == attempt
end

local refused, refusing = {}, nil
for n, events in ipairs(KEYS) do
  local channel, id, event = unpack(ARGV, n * 3 - 2, n * 3)
  local reply = events ~= refusing and may_begin(events, id)
    and redis.pcall('XADD', events, 'NOMKSTREAM', id, 'e', event)
  if type(reply) == 'string' then
    redis.call(PUBLISH, channel, event)
  elseif reply and not is_refusal(tostring(reply.err)) then
    return reply
  else
    refusing = events
    refused[#refused + 1] = n - 1
  end
end
return refused
