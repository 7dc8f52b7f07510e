-- Fixed window by a calendar, the twin of core/algorithms/fixed_window.py for quotas with a calendar.
--
-- KEYS   one string: `start:end:count:born`, the window's start and end, the units spent in it, and the
--        time of its first charge
-- STATE  a = start, b = end, c = count, d = born, as text
--
-- The charge has the boundaries of the windows around the replica's time in place of a lease. The
-- server's time chooses the window among them. Where its clock differs by more than they cover, the
-- reply is the error CALENDAR with the server's time, and the replica sends others.

factories.calendar_window = function()
  -- The current window's start and end, and the end of the next one; nil if they are not known.
  local function window_of(q)
    if not q.boundaries then
      q.boundaries = {}
      for at in string.gmatch(q.lease, '%-?%d+') do
        q.boundaries[#q.boundaries + 1] = tonumber(at)
      end
    end
    for i = 1, #q.boundaries - 2 do
      local start, end_at, next_end = unpack(q.boundaries, i, i + 2)
      if start <= now and now < end_at then return start, end_at, next_end end
    end
  end

  local function save(key, _, start, end_at, count, born)
    if count == 0 then
      redis.call('DEL', key)
    else
      set(key, text(start) .. ':' .. text(end_at) .. ':' .. text(count) .. ':' .. born, end_at)
    end
  end

  return {
    load = function(key, q)
      local value = redis.call('GET', key)
      local start, end_at, count, born
      if value then
        start, end_at, count, born = string.match(value, '^(%-?%d+):(%-?%d+):(%d+):(%d+)$')
        if not start then return corrupt() end
        start, end_at, count = tonumber(start), tonumber(end_at), tonumber(count)
        -- A window that has begun keeps its end, also after a change of the calendar.
        if start <= now and now < end_at then return start, end_at, count, born end
      end
      local current, current_end, next_end = window_of(q)
      if not current then
        return redis.error_reply('CALENDAR ' .. text(now) .. ' is outside the windows of the call')
      end
      if not value or end_at <= now then return current, current_end, 0, now_text() end
      -- If the clock went back, the later window stays current: an earlier one must not reopen.
      if start > current_end then
        -- After a larger step, it is the next window, so that its end comes soon.
        start, end_at = current_end, next_end
        save(key, q, start, end_at, count, born)
      end
      return start, end_at, count, born
    end,

    check = function(_, q, _, end_at, count)
      if count + q.units <= q.limit then return true, 0 end
      return false, end_at - now
    end,

    spend = function(q, start, end_at, count, born)
      return start, end_at, count + q.units, born
    end,

    status = function(_, q, _, end_at, count)
      local reset_after = count > 0 and end_at - now or 0
      return math.max(0, q.limit - count), reset_after, reset_after
    end,

    save = save,

    adjust = function(key, q, delta, acquired_at, start, end_at, count, born)
      if delta > 0 then
        count = math.max(count, math.min(count + delta, 2 * q.limit))
      elseif start <= acquired_at and acquired_at < end_at and acquired_at >= tonumber(born) then
        count = math.max(0, count + delta)
      end
      save(key, q, start, end_at, count, born)
    end,
  }
end
