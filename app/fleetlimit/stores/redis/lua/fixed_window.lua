-- Fixed window, the twin of core/algorithms/fixed_window.py.
--
-- KEYS   one string: `index:count`, the window's number since the epoch and the units spent in it
-- STATE  a = index, b = count

factories.fixed_window = function()
  local function save(key, q, index, count)
    if count == 0 then
      redis.call('DEL', key)
    else
      -- A period is at least a millisecond, so an index has at most 13 digits.
      set(key, index .. ':' .. count, (index + 1) * q.period)
    end
  end

  return {
    load = function(key, q)
      local index, count = numbers(redis.call('GET', key), 2, 2)
      if type(index) == 'table' then return index end
      local current = div(now, q.period)
      if not index or index < current then return current, 0 end
      -- If the clock went back, the later window stays current: an earlier one must not reopen.
      if index > current + 1 then
        -- After a larger step, it is the next window, so that its end comes soon.
        index = current + 1
        save(key, q, index, count)
      end
      return index, count
    end,

    check = function(_, q, index, count)
      if count + q.units <= q.limit then return true, 0 end
      return false, (index + 1) * q.period - now
    end,

    spend = function(q, index, count)
      return index, count + q.units
    end,

    status = function(_, q, index, count)
      local reset_after = count > 0 and (index + 1) * q.period - now or 0
      return math.max(0, q.limit - count), reset_after, reset_after
    end,

    save = save,

    adjust = function(key, q, delta, acquired_at, index, count)
      if delta > 0 then
        count = math.max(count, math.min(count + delta, 2 * q.limit))
      elseif div(acquired_at, q.period) == index then
        count = math.max(0, count + delta)
      end
      save(key, q, index, count)
    end,
  }
end
