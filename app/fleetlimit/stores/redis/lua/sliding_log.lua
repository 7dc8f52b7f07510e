-- Sliding log, the twin of core/algorithms/sliding_log.py.
--
-- KEYS   one list: the sum of all units, then the entries `time:units`, oldest first
-- STATE  a = units spent within the last period, after expired entries were dropped

factories.sliding_log = function()
  local function parse(entry)
    local at, units = numbers(entry, 2, 2)
    return at, units
  end

  local function last_time(key)
    local entry = redis.call('LINDEX', key, -1)
    return entry and parse(entry) or nil
  end

  local function append(key, q, units, used)
    local at = now
    if used > 0 then
      -- If the clock went back, entries still stay in order.
      at = math.max(now, last_time(key))
      redis.call('LSET', key, 0, used + units)
    else
      redis.call('RPUSH', key, units)
    end
    redis.call('RPUSH', key, text(at) .. ':' .. units)
    redis.call('PEXPIREAT', key, expiry_ms(at + q.period))
  end

  -- Microseconds until the oldest `missing` units have expired. An entry has at least one unit.
  local function wait_for(key, q, missing)
    for _, entry in ipairs(redis.call('LRANGE', key, 1, missing)) do
      local at, units = parse(entry)
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
        local at, units = parse(first)
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
        -- The last dropped entry becomes the head.
        redis.call('LTRIM', key, dropped, -1)
        redis.call('LSET', key, 0, used)
      end
      return used
    end,

    check = function(key, q, used)
      if used + q.units <= q.limit then return true, 0 end
      return false, wait_for(key, q, used + q.units - q.limit)
    end,

    spend = function(q, used)
      return used + q.units
    end,

    status = function(key, q, used)
      if used == 0 then return q.limit, 0, 0 end
      local remaining = math.max(0, q.limit - used)
      return remaining,
        wait_for(key, q, used - q.limit + remaining + 1),
        last_time(key) + q.period - now
    end,

    save = function(key, q, used)
      if q.units > 0 then append(key, q, q.units, used - q.units) end
    end,

    adjust = function(key, q, delta, acquired_at, used)
      if delta > 0 then
        append(key, q, delta, used)
        return
      end
      if used == 0 then return end
      for index, entry in ipairs(redis.call('LRANGE', key, 1, -1)) do
        local at, units = parse(entry)
        if at == acquired_at then
          local kept = math.max(0, units + delta)
          used = used - units + kept
          if used == 0 then
            redis.call('DEL', key)
            return
          end
          redis.call('LSET', key, 0, used)
          if kept > 0 then
            redis.call('LSET', key, index, text(at) .. ':' .. kept)
          else
            redis.call('LREM', key, 1, entry)
          end
          redis.call('PEXPIREAT', key, expiry_ms(last_time(key) + q.period))
          return
        end
      end
    end,
  }
end
