-- Sliding window over two counters, the twin of core/algorithms/sliding_window.py.
--
-- KEYS   one string: `index:current:previous:born`; born is the time of the first charge since both
--        counters were 0
-- STATE  a = index, b = current, c = previous, d = born, as text

factories.sliding_window = function()
  local function ceil_mul_div(n, m, d)
    local quotient, rest = mul_div(n, m, d)
    return rest > 0 and quotient + 1 or quotient
  end

  local function used(q, index, current, previous)
    local period_ms = q.period / 1000
    -- If the clock went back, the previous window's weight is capped at 1.
    local rest_ms = math.min(period_ms, ceil_div((index + 1) * q.period - now, 1000))
    return current + ceil_mul_div(previous, rest_ms, period_ms)
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
    if weighted > spare then rest_ms = mul_div(spare, period_ms, weighted) end
    return math.max(0, ends - rest_ms * 1000 - now)
  end

  local function save(key, q, index, current, previous, born)
    if current == 0 and previous == 0 then
      redis.call('DEL', key)
      return
    end
    -- `..` prints 14 digits: an index has at most 13, because a period is at least a millisecond, and
    -- a count 14, because it is at most 2^46.
    local value = index .. ':' .. current .. ':' .. previous .. ':' .. born
    set(key, value, (index + (current > 0 and 2 or 1)) * q.period)
  end

  return {
    load = function(key, q)
      local value, latest = redis.call('GET', key), div(now, q.period)
      if not value then return latest, 0, 0, now_text() end
      local index, current, previous, born = string.match(value, '^(%d+):(%d+):(%d+):(%d+)$')
      if not index then return corrupt() end
      index, current, previous = tonumber(index), tonumber(current), tonumber(previous)
      if index < latest then
        if index < latest - 1 or current == 0 then return latest, 0, 0, now_text() end
        return latest, 0, current, born
      end
      -- If the clock went back, the later window stays current: an earlier one must not reopen.
      if index > latest + 1 then
        -- After a larger step, it is the next window, so that its end comes soon.
        index = latest + 1
        save(key, q, index, current, previous, born)
      end
      return index, current, previous, born
    end,

    check = function(_, q, index, current, previous)
      if used(q, index, current, previous) + q.units <= q.limit then return true, 0 end
      return false, wait_for(q, index, current, previous, q.units)
    end,

    spend = function(q, index, current, previous, born)
      return index, current + q.units, previous, born
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

    adjust = function(key, q, delta, acquired_at, index, current, previous, born)
      local acquired_in = div(acquired_at, q.period)
      if delta > 0 then
        current = math.max(current, math.min(current + delta, 2 * q.limit))
      elseif acquired_at < tonumber(born) then
        return
      elseif acquired_in == index then
        current = math.max(0, current + delta)
      elseif acquired_in == index - 1 then
        previous = math.max(0, previous + delta)
      end
      save(key, q, index, current, previous, born)
    end,
  }
end
