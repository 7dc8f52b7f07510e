-- Sliding window over two counters, the twin of core/algorithms/sliding_window.py.
--
-- KEYS   one string: `index:current:previous`
-- STATE  a = index, b = current, c = previous

factories.sliding_window = function()
  local function used(q, index, current, previous)
    local period_ms = q.period / 1000
    -- If the clock went back, the previous window's weight is capped at 1.
    local rest_ms = math.min(period_ms, ceil_div((index + 1) * q.period - now, 1000))
    return current + ceil_div(previous * rest_ms, period_ms)
  end

  -- Microseconds until at least `units` units are available.
  local function wait_for(q, index, current, previous, units)
    local period_ms = q.period / 1000
    local ends, room = (index + 1) * q.period, q.limit - units
    local weighted, spare = previous, room - current
    if current > room then
      weighted, spare, ends = current, room, ends + q.period
    end
    local rest_ms = period_ms
    if weighted > 0 then rest_ms = math.min(period_ms, div(spare * period_ms, weighted)) end
    return math.max(0, ends - rest_ms * 1000 - now)
  end

  local function save(key, q, index, current, previous)
    if current == 0 and previous == 0 then
      redis.call('DEL', key)
      return
    end
    -- A period is at least a millisecond, so an index has at most 13 digits.
    local value = index .. ':' .. current .. ':' .. previous
    set(key, value, (index + (current > 0 and 2 or 1)) * q.period)
  end

  return {
    load = function(key, q)
      local index, current, previous = numbers(redis.call('GET', key), 3, 3)
      if type(index) == 'table' then return index end
      local latest = div(now, q.period)
      if not index then return latest, 0, 0 end
      if index < latest then return latest, 0, index == latest - 1 and current or 0 end
      -- If the clock went back, the later window stays current: an earlier one must not reopen.
      if index > latest + 1 then
        -- After a larger step, it is the next window, so that its end comes soon.
        index = latest + 1
        save(key, q, index, current, previous)
      end
      return index, current, previous
    end,

    check = function(_, q, index, current, previous)
      if used(q, index, current, previous) + q.units <= q.limit then return true, 0 end
      return false, wait_for(q, index, current, previous, q.units)
    end,

    spend = function(q, index, current, previous)
      return index, current + q.units, previous
    end,

    status = function(_, q, index, current, previous)
      local units = used(q, index, current, previous)
      local remaining = math.max(0, q.limit - units)
      if units == 0 then return remaining, 0, 0 end
      return remaining,
        wait_for(q, index, current, previous, remaining + 1),
        wait_for(q, index, current, previous, q.limit)
    end,

    save = save,

    adjust = function(key, q, delta, acquired_at, index, current, previous)
      local acquired_in = div(acquired_at, q.period)
      if delta > 0 then
        current = math.max(current, math.min(current + delta, 2 * q.limit))
      elseif acquired_in == index then
        current = math.max(0, current + delta)
      elseif acquired_in == index - 1 then
        previous = math.max(0, previous + delta)
      end
      save(key, q, index, current, previous)
    end,
  }
end
