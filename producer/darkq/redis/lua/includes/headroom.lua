-- Return whether so many more bytes fit into the share of `maxmemory` that producers may fill.
--
-- The rest is reserved for running jobs: claims, events, results. Without that reserve, producers that
-- keep retrying would take each byte that is freed, and no job could be claimed and end.
--
-- Where the ACL of the caller does not allow INFO, `maxmemory` itself is the only limit.

local PRODUCERS_SHARE = 0.85

local function has_room(bytes)
  local info = redis.pcall('INFO', 'memory') -- takes 7 µs, so it need not be cached
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

