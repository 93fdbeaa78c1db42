-- Take jobs out of a queue that is paused and closed, to be moved to another Redis.
--
-- From now on no worker can claim them, even if the queue is resumed. Their keys stay until
-- `transfer_forget`. A running job stays, also if its lease has expired. So does a line of a batch,
-- since the batch does not move with it.
--
-- KEYS  queue, moving jobs, the partition's control
-- ARGV  priority, then arq ids
-- Returns for each 'departed' | 'running' | 'line' | 'expired' | 'gone', or an empty list when the
-- queue is not paused and closed.

local queue, moving, control = unpack(KEYS)
local words = redis.call('HMGET', control, 'paused:' .. ARGV[1], 'closed:' .. ARGV[1])
if not (words[1] and words[2]) then
  return {}
end

local function depart(id)
  local job, state = 'arq:job:' .. id, 'darkq:state:' .. id
  local held, batch = unpack(redis.call('HMGET', state, 'held', 'batch'))
  local place = redis.call('ZSCORE', queue, id)
  if not place then
    return 'gone'
  elseif held or redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 then
    return 'running'
  elseif batch then
    return 'line'
  elseif redis.call('EXISTS', job) == 0 then
    return 'expired'
  end
  redis.call('ZREM', queue, id)
  redis.call('ZADD', moving, place, id)
  redis.call('HSET', state, 'moving', '1')
  redis.call('PEXPIRE', state, redis.call('PTTL', job))
  return 'departed'
end

local verdicts = {}
for n = 2, #ARGV do
  verdicts[n - 1] = depart(ARGV[n])
end
return verdicts
