-- Delete jobs that have arrived at another Redis.
--
-- A job that was cancelled on the way stays, until the mover has cancelled it at the target.
--
-- KEYS  moving jobs
-- ARGV  1 if cancellations have been passed on, then arq ids
-- Returns for each 'gone', or 'cancel'.

local moving, told = KEYS[1], ARGV[1] == '1'
local verdicts = {}
for n = 2, #ARGV do
  local id = ARGV[n]
  local state = 'darkq:state:' .. id
  if not told and redis.call('HEXISTS', state, 'cancel') == 1 then
    verdicts[#verdicts + 1] = 'cancel'
  else
    redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id, 'darkq:events:' .. id, state,
      'darkq:moved:' .. id)
    redis.call('ZREM', moving, id)
    verdicts[#verdicts + 1] = 'gone'
  end
end
return verdicts
