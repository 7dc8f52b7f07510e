-- Sliding log, the twin of core/algorithms/sliding_log.py.
--
-- KEYS   one list: the sum of all units, then the entries `time:units`, oldest first
-- STATE  a = units spent within the last period, after the expired entries were dropped

algorithms.sliding_log = function()
  local function log_entry(value)
    local at, units = numbers(value, 2, 2)
    return at, units
  end

  local function log_last(key)
    local last = redis.call('LINDEX', key, -1)
    return last and log_entry(last) or nil
  end

  local function log_append(key, q, units, used)
    local at = now
    if used > 0 then
      -- A clock that went back must not put an entry before the last one.
      at = math.max(now, log_last(key))
      redis.call('LSET', key, 0, used + units)
    else
      redis.call('RPUSH', key, units)
    end
    redis.call('RPUSH', key, text(at) .. ':' .. units)
    redis.call('PEXPIREAT', key, expiry_ms(at + q.period))
  end

  -- Microseconds until `missing` of the units are forgotten. Every entry holds at least one unit.
  local function log_wait(key, q, missing)
    for _, value in ipairs(redis.call('LRANGE', key, 1, missing)) do
      local at, units = log_entry(value)
      missing = missing - units
      if missing <= 0 then return at + q.period - now end
    end
    return 0
  end

  return {
    load = function(key, q)
      local head = redis.call('LINDEX', key, 0)
      if not head then return 0 end
      local used, dropped = tonumber(head), 0
      local first = redis.call('LINDEX', key, 1)
      if not used or not first then return corrupt() end
      while first do
        local at, units = log_entry(first)
        if type(at) == 'table' then return at end
        if at > now - q.period then break end
        used, dropped = used - units, dropped + 1
        first = redis.call('LINDEX', key, dropped + 1)
      end
      if not first then
        redis.call('DEL', key)
        return 0
      end
      if dropped > 0 then
        -- The last dropped entry's place becomes the head.
        redis.call('LTRIM', key, dropped, -1)
        redis.call('LSET', key, 0, used)
      end
      return used
    end,

    verdict = function(key, q, used)
      if used + q.units <= q.limit then return true, 0 end
      return false, log_wait(key, q, used + q.units - q.limit)
    end,

    spend = function(q, used)
      return used + q.units
    end,

    report = function(key, q, used)
      if used == 0 then return q.limit, 0, 0 end
      local remaining = math.max(0, q.limit - used)
      return remaining,
        log_wait(key, q, used - q.limit + remaining + 1),
        log_last(key) + q.period - now
    end,

    save = function(key, q, used)
      if q.units > 0 then log_append(key, q, q.units, used - q.units) end
    end,

    settle = function(key, q, delta, taken, used)
      if delta > 0 then
        log_append(key, q, delta, used)
        return
      end
      if used == 0 then return end
      local entries = redis.call('LRANGE', key, 1, -1)
      for place, value in ipairs(entries) do
        local at, units = log_entry(value)
        if at == taken then
          local kept = math.max(0, units + delta)
          used = used - units + kept
          if used == 0 then
            redis.call('DEL', key)
            return
          end
          redis.call('LSET', key, 0, used)
          if kept > 0 then
            redis.call('LSET', key, place, text(at) .. ':' .. kept)
          else
            redis.call('LREM', key, 1, value)
          end
          redis.call('PEXPIREAT', key, expiry_ms(log_last(key) + q.period))
          return
        end
      end
    end,
  }
end
