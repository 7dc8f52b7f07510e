-- Fixed window, the twin of core/algorithms/fixed_window.py.
--
-- KEYS   one string: `index:count`, the window's number since the epoch and the units spent in it
-- STATE  a = index, b = count

algorithms.fixed_window = function()
  local function window_save(key, q, index, count)
    if count == 0 then
      redis.call('DEL', key)
    else
      -- A period is a millisecond at least, so an index has 13 digits at most.
      set(key, index .. ':' .. count, (index + 1) * q.period)
    end
  end

  return {
    load = function(key, q)
      local index, count = numbers(redis.call('GET', key), 2, 2)
      if type(index) == 'table' then return index end
      local current = div(now, q.period)
      -- A clock that went back stays in the later window: it must not open an earlier one again.
      if index and index >= current then return index, count end
      return current, 0
    end,

    verdict = function(_, q, index, count)
      if count + q.units <= q.limit then return true, 0 end
      return false, (index + 1) * q.period - now
    end,

    spend = function(q, index, count)
      return index, count + q.units
    end,

    report = function(_, q, index, count)
      local back = count > 0 and (index + 1) * q.period - now or 0
      return math.max(0, q.limit - count), back, back
    end,

    save = window_save,

    settle = function(key, q, delta, taken, index, count)
      if delta > 0 or div(taken, q.period) == index then count = math.max(0, count + delta) end
      window_save(key, q, index, count)
    end,
  }
end
