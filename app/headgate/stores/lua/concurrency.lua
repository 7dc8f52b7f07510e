-- Concurrency, the twin of core/algorithms/concurrency.py.
--
-- KEYS   one sorted set: the units held, named `lease:1`, `lease:2`, ..., scored by when they end
-- STATE  a = how many units are held, after the lapsed ones were dropped

local function nth_end(q, place)  -- microseconds until the unit at this place, from 0, ends
  local found = redis.call('ZRANGE', q.key, text(place), text(place), 'WITHSCORES')
  return found[2] and found[2] - now or 0
end

local function hold(q, first, last)
  for unit = first, last do
    redis.call('ZADD', q.key, text(now + q.period), q.lease .. ':' .. text(unit))
  end
end

local function keep_alive(q)
  local held = redis.call('ZCARD', q.key)
  if held > 0 then redis.call('PEXPIREAT', q.key, expiry_ms(now + nth_end(q, held - 1))) end
end

algorithms.concurrency = {
  load = function(q)
    redis.call('ZREMRANGEBYSCORE', q.key, '-inf', text(now))
    return redis.call('ZCARD', q.key)
  end,

  verdict = function(q, _, units, held)
    local missing = held + units - q.limit
    if missing <= 0 then return true, 0 end
    return false, nth_end(q, missing - 1)
  end,

  spend = function(_, _, units, held)
    return held + units
  end,

  report = function(q, _, held)
    if held == 0 then return q.limit, 0, 0 end
    -- What is held beyond the limit, after it was lowered, must end before a unit is free.
    return math.max(0, q.limit - held), nth_end(q, math.max(0, held - q.limit)), nth_end(q, held - 1)
  end,

  save = function(q, _, units)
    hold(q, 1, units)
    keep_alive(q)
  end,

  settle = function(q, _, delta, _, units)
    -- Units still in use are held even where the lease had lapsed: the truth is over the limit then.
    local kept = math.max(0, units + delta)
    hold(q, 1, kept)
    local unit, gone = kept + 1, 0
    repeat
      gone = redis.call('ZREM', q.key, q.lease .. ':' .. text(unit))
      unit = unit + 1
    until gone == 0 and unit > units
    keep_alive(q)
  end,
}
