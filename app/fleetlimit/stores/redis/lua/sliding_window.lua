-- Sliding window over two counters, the twin of core/algorithms/sliding_window.py.
--
-- KEYS   one string: `index:current:previous`
-- STATE  a = index, b = current, c = previous

algorithms.sliding_window = function()
  local function sliding_used(q, index, current, previous)
    local period_ms = q.period / 1000
    -- A clock that went back cannot weigh the last window more than whole.
    local rest_ms = math.min(period_ms, ceil_div((index + 1) * q.period - now, 1000))
    return current + ceil_div(previous * rest_ms, period_ms)
  end

  -- Microseconds until at least `free` units are available.
  local function sliding_wait(q, index, current, previous, free)
    local period_ms = q.period / 1000
    local ends, room = (index + 1) * q.period, q.limit - free
    local counted, spare = previous, room - current
    if current > room then
      counted, spare, ends = current, room, ends + q.period
    end
    local rest_ms = period_ms
    if counted > 0 then rest_ms = math.min(period_ms, div(spare * period_ms, counted)) end
    return math.max(0, ends - rest_ms * 1000 - now)
  end

  local function sliding_save(key, q, index, current, previous)
    if current == 0 and previous == 0 then
      redis.call('DEL', key)
      return
    end
    -- A period is a millisecond at least, so an index has 13 digits at most.
    local value = index .. ':' .. current .. ':' .. previous
    set(key, value, (index + (current > 0 and 2 or 1)) * q.period)
  end

  return {
    load = function(key, q)
      local index, current, previous = numbers(redis.call('GET', key), 3, 3)
      if type(index) == 'table' then return index end
      local latest = div(now, q.period)
      if not index then return latest, 0, 0 end
      if index >= latest then return index, current, previous end
      return latest, 0, index == latest - 1 and current or 0
    end,

    verdict = function(_, q, index, current, previous)
      if sliding_used(q, index, current, previous) + q.units <= q.limit then return true, 0 end
      return false, sliding_wait(q, index, current, previous, q.units)
    end,

    spend = function(q, index, current, previous)
      return index, current + q.units, previous
    end,

    report = function(_, q, index, current, previous)
      local used = sliding_used(q, index, current, previous)
      local remaining = math.max(0, q.limit - used)
      if used == 0 then return remaining, 0, 0 end
      return remaining,
        sliding_wait(q, index, current, previous, remaining + 1),
        sliding_wait(q, index, current, previous, q.limit)
    end,

    save = sliding_save,

    settle = function(key, q, delta, taken, index, current, previous)
      taken = div(taken, q.period)
      if delta > 0 or taken == index then
        current = math.max(0, current + delta)
      elseif taken == index - 1 then
        previous = math.max(0, previous + delta)
      end
      sliding_save(key, q, index, current, previous)
    end,
  }
end
