-- Whether Redis has room for so many bytes more, of what producers may fill of its `maxmemory`.
--
-- The rest is kept for jobs in progress: claims, events, results. Else producers that try again and
-- again take each byte that is freed, and no job is ever claimed, ended and taken away.
--
-- Where INFO is not allowed to who asks, only `maxmemory` itself is a bound.

local PRODUCERS_SHARE = 0.85

local function has_room(bytes)
  local info = redis.pcall('INFO', 'memory') -- 7 µs: nothing is worth being remembered
  if type(info) ~= 'string' then
    return true
  end
  local function figure(name)
    return tonumber(string.match(info, '\n' .. name .. ':(%d+)')) or 0
  end
  local most = figure('maxmemory')
  local used = figure('used_memory') - figure('mem_not_counted_for_evict')
  return most == 0 or used + bytes <= most * PRODUCERS_SHARE
end

