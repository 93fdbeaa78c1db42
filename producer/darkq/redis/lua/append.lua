-- Append events to event logs, and publish those that were accepted.
--
-- Redis refuses an id that is not above the log's last one, so a worker whose attempt has
-- been superseded cannot write; and a log that is gone is not made anew. What
-- is no log refuses everything. The first event of an attempt that was not given out here, or that
-- has ended here, is refused too: it was claimed from a server that another has replaced.
--
-- KEYS  the event log of each event; a log's events stand together, in order
-- ARGV  three per event: channel, event id, event
-- Returns the numbers (from 0) of the events that were refused: once one of a log is, the
-- rest of that log are too.

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
