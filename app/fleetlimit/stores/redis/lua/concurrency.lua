-- Concurrency, the twin of core/algorithms/concurrency.py.
--
-- KEYS   one sorted set: the units held, named `lease:1`, `lease:2`, ..., scored by when they end
-- STATE  a = how many units are held, after the lapsed ones were dropped

algorithms.concurrency = function()
  local function nth_end(key, place)  -- microseconds until the unit at this place, from 0, ends
    local found = redis.call('ZRANGE', key, place, place, 'WITHSCORES')
    return found[2] and found[2] - now or 0
  end

  local function hold(key, q, first, last)
    for unit = first, last do
      redis.call('ZADD', key, now + q.period, q.lease .. ':' .. unit)
    end
  end

  local function keep_alive(key)
    local held = redis.call('ZCARD', key)
    if held > 0 then redis.call('PEXPIREAT', key, expiry_ms(now + nth_end(key, held - 1))) end
  end

  return {
    load = function(key)
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
      return redis.call('ZCARD', key)
    end,

    verdict = function(key, q, held)
      local missing = held + q.units - q.limit
      if missing <= 0 then return true, 0 end
      return false, nth_end(key, missing - 1)
    end,

    spend = function(q, held)
      return held + q.units
    end,

    report = function(key, q, held)
      if held == 0 then return q.limit, 0, 0 end
      -- What is held beyond the limit, after it was lowered, must end before a unit is free.
      return math.max(0, q.limit - held), nth_end(key, math.max(0, held - q.limit)), nth_end(key, held - 1)
    end,

    save = function(key, q)
      hold(key, q, 1, q.units)
      keep_alive(key)
    end,

    settle = function(key, q, delta)
      -- Units still in use are held even where the lease had lapsed: the truth is over the limit then.
      local kept = math.max(0, q.units + delta)
      hold(key, q, 1, kept)
      local unit, gone = kept + 1, 0
      repeat
        gone = redis.call('ZREM', key, q.lease .. ':' .. unit)
        unit = unit + 1
      until gone == 0 and unit > q.units
      keep_alive(key)
    end,
  }
end
