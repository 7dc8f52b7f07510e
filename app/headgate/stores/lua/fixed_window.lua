-- Fixed window, the twin of core/algorithms/fixed_window.py.
--
-- KEYS   one string: `index:count`, the window's number since the epoch and the units spent in it
-- STATE  a = index, b = count

algorithms.fixed_window = {
  load = function(q)
    local index, count = numbers(redis.call('GET', q.key), 2, 2)
    if type(index) == 'table' then return index end
    local current = div(now, q.period)
    -- A clock that went back stays in the later window: it must not open an earlier one again.
    if index and index >= current then return index, count end
    return current, 0
  end,

  verdict = function(q, _, units, index, count)
    if count + units <= q.limit then return true, 0 end
    return false, (index + 1) * q.period - now
  end,

  spend = function(_, _, units, index, count)
    return index, count + units
  end,

  report = function(q, _, index, count)
    local back = count > 0 and (index + 1) * q.period - now or 0
    return math.max(0, q.limit - count), back, back
  end,

  save = function(q, _, _, index, count)
    if count == 0 then
      redis.call('DEL', q.key)
    else
      set(q.key, text(index) .. ':' .. text(count), (index + 1) * q.period)
    end
  end,

  settle = function(q, _, delta, taken, _, index, count)
    if delta > 0 or div(taken, q.period) == index then count = math.max(0, count + delta) end
    algorithms.fixed_window.save(q, now, 0, index, count)
  end,
}
