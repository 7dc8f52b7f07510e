-- Fixed window, the twin of core/algorithms/fixed_window.py.
--
-- KEYS   one string: `index:count:born`, the window's number since the epoch, the units spent in it,
--        and the time of its first charge
-- STATE  a = index, b = count, c = born, as text

factories.fixed_window = function()
  local function save(key, q, index, count, born)
    if count == 0 then
      redis.call('DEL', key)
    else
      -- `..` prints 14 digits: an index has at most 13, because a period is at least a millisecond,
      -- and a count 14, because it is at most 2^46.
      set(key, index .. ':' .. count .. ':' .. born, (index + 1) * q.period)
    end
  end

  return {
    load = function(key, q)
      local value, current = redis.call('GET', key), div(now, q.period)
      if not value then return current, 0, now_text() end
      local index, count, born = string.match(value, '^(%d+):(%d+):(%d+)$')
      if not index then return corrupt() end
      index, count = tonumber(index), tonumber(count)
      if index < current then return current, 0, now_text() end
      -- If the clock went back, the later window stays current: an earlier one must not reopen.
      if index > current + 1 then
        -- After a larger step, it is the next window, so that its end comes soon.
        index = current + 1
        save(key, q, index, count, born)
      end
      return index, count, born
    end,

    check = function(_, q, index, count)
      if count + q.units <= q.limit then return true, 0 end
      return false, (index + 1) * q.period - now
    end,

    spend = function(q, index, count, born)
      return index, count + q.units, born
    end,

    status = function(_, q, index, count)
      local reset_after = count > 0 and (index + 1) * q.period - now or 0
      return math.max(0, q.limit - count), reset_after, reset_after
    end,

    save = save,

    adjust = function(key, q, delta, acquired_at, index, count, born)
      if delta > 0 then
        count = math.max(count, math.min(count + delta, 2 * q.limit))
      elseif div(acquired_at, q.period) == index and acquired_at >= tonumber(born) then
        count = math.max(0, count + delta)
      end
      save(key, q, index, count, born)
    end,
  }
end
