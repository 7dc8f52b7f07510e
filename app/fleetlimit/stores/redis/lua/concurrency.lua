-- Concurrency, the twin of core/algorithms/concurrency.py.
--
-- KEYS   one sorted set: the units in use, named `lease:1`, `lease:2`, ..., scored by their expiry
-- STATE  a = number of units in use, after expired ones were dropped

factories.concurrency = function()
  -- Microseconds until the unit at this index (from 0, by expiry) expires.
  local function nth_expiry(key, index)
    local unit = redis.call('ZRANGE', key, index, index, 'WITHSCORES')
    return unit[2] and unit[2] - now or 0
  end

  local function add_units(key, q, first, last)
    for unit = first, last do
      redis.call('ZADD', key, now + q.period, q.lease .. ':' .. unit)
    end
  end

  local function set_expiry(key)
    local in_use = redis.call('ZCARD', key)
    if in_use == 0 then return end
    redis.call('PEXPIREAT', key, expiry_ms(now + nth_expiry(key, in_use - 1)))
  end

  return {
    load = function(key)
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
      return redis.call('ZCARD', key)
    end,

    check = function(key, q, in_use)
      local missing = in_use + q.units - q.limit
      if missing <= 0 then return true, 0 end
      return false, nth_expiry(key, missing - 1)
    end,

    spend = function(q, in_use)
      return in_use + q.units
    end,

    status = function(key, q, in_use)
      if in_use == 0 then return q.limit, 0, 0 end
      -- After the limit was lowered, the excess must expire before a unit is free.
      return math.max(0, q.limit - in_use),
        nth_expiry(key, math.max(0, in_use - q.limit)),
        nth_expiry(key, in_use - 1)
    end,

    save = function(key, q)
      add_units(key, q, 1, q.units)
      set_expiry(key)
    end,

    adjust = function(key, q, delta)
      -- A lease that had expired while in use is added again, even if that exceeds the limit.
      local kept = math.max(0, math.min(q.units + delta, math.max(q.units, 2 * q.limit)))
      add_units(key, q, 1, kept)
      local unit, removed = kept + 1, 0
      repeat
        removed = redis.call('ZREM', key, q.lease .. ':' .. unit)
        unit = unit + 1
      until removed == 0 and unit > q.units
      set_expiry(key)
    end,
  }
end
