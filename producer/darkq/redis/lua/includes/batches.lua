-- A batch, as seen by the scripts that add its lines and end its jobs.
--
-- A line is in one of three places. While its job has not ended it is in `lines` with score 0. From
-- its end to its acknowledgement it is in `lines` with the number of its end. After that it is one bit
-- of `acknowledged`. So `lines` is never larger than the window, whatever the length of the input.
--
-- All keys are built from ids that contain the batch's hash tag. The field `batch` of a job's state
-- links it to its batch: `<id of the batch> <number of the line>`.

local function batch_key(id, part)
  return 'darkq:batch:' .. id .. (part and ':' .. part or '')
end

-- Return why a line may not be added, nil if it may. A job whose keys were lost is stored again.
local function refusal(batch, line, job, result)
  if redis.call('GETBIT', batch_key(batch.id, 'acknowledged'), line) == 1 then
    return 'acknowledged'
  end
  local score = redis.call('ZSCORE', batch_key(batch.id, 'lines'), line)
  if score then
    local known = tonumber(score) > 0 or redis.call('EXISTS', job, result) > 0
    return known and 'duplicate' or nil
  end
  return batch.cancel and 'cancelled'
    or batch.total and batch.added >= tonumber(batch.total) and 'closed'
    or batch.room <= 0 and 'wait' or nil
end

local function find_batch(id)
  local found = redis.call('HMGET', batch_key(id),
    'window', 'added', 'total', 'cancel', 'ttl_ms', 'last')
  return found[1] and {
    id = id, room = tonumber(found[1]) - redis.call('ZCARD', batch_key(id, 'lines')),
    added = tonumber(found[2] or 0), total = found[3], cancel = found[4], ttl_ms = found[5],
    last = tonumber(found[6] or 0),
  }
end

local function add_line(batch, line, job_id)
  local state = 'darkq:state:' .. job_id
  redis.call('HSET', state, 'batch', batch.id .. ' ' .. line)
  redis.call('PEXPIRE', state, batch.ttl_ms)
  if redis.call('ZADD', batch_key(batch.id, 'lines'), 0, line) == 1 then
    batch.added, batch.room = batch.added + 1, batch.room - 1
    batch.last = math.max(batch.last, tonumber(line))
  end
end

local function store_batch(batch)
  redis.call('HSET', batch_key(batch.id), 'added', batch.added, 'last', batch.last)
  redis.call('PEXPIRE', batch_key(batch.id, 'lines'), batch.ttl_ms)
  redis.call(PUBLISH, 'darkq:live:batch:' .. batch.id, 'added')
end
