-- Token bucket (GCRA), the twin of core/algorithms/token_bucket.py.
--
-- KEYS   one string: the theoretical arrival time (TAT), at which the bucket is full, and the time
--        at which it was last full, from which on its charges can be refunded. Written as
--        `tat:born`, or `fraction:tat:born` with the fraction in 1/limit of a microsecond. Times
--        have 16 digits, so a check overwrites the TAT in place (SETRANGE): that takes less time
--        than writing the value, and keeps the rest of it and the expiry. Where units were spent
--        ahead, `:h` and the latest time until which they may be used follow.
-- STATE  a, b = debt: whole microseconds until the bucket is full, and the fraction; at most two
--        bursts, which load() enforces
--        c = born, as text
--        d = the time after `:h`, 0 without
--
-- The arithmetic stands here twice, with the same steps: without fractions, for limits whose period
-- is a multiple of the limit, and with them, for all others. load_script() copies the first block
-- into acquire.lua in place of `-- insert whole_token_bucket`, because a function call would cost 3
-- to 5 % of the script's time.

-- Acquire `cost` from a bucket without fractions.
--
-- In    key; tat (long ago for an absent key); step: microseconds for a unit; burst in units;
--       size = step * burst; cost = step * units; new_bucket: nil, or the value of a bucket after
--       its first charge, which is the same for all such buckets
--       call = redis.call, as a local, which is found faster
-- Out   allowed, remaining, retry_after, next_unit_after; debt is also reset_after
--
-- begin whole_token_bucket
    local debt = tat > now and tat - now or 0
    local retry_after = debt + cost - size
    local allowed = retry_after <= 0
    if allowed then
      debt, retry_after = debt + cost, 0
      local new_tat = now + debt
      local expires_at = new_tat + ttl_quantum - 1
      expires_at = expires_at - expires_at % ttl_quantum
      local keeps_ttl = tat > expires_at - ttl_quantum  -- the key expires at this time already
      local expires_at_ms = keeps_ttl or math.ceil((expires_at + test_clock_offset) / 1000)
      if tat > now then
        call('SETRANGE', key, '0', new_tat)
        if not keeps_ttl then call('PEXPIREAT', key, expires_at_ms) end
      else
        new_bucket = new_bucket or string.format('%.0f:%.0f', new_tat, now)
        if keeps_ttl then
          call('SET', key, new_bucket, 'KEEPTTL')
        else
          call('SET', key, new_bucket, 'PXAT', expires_at_ms)
        end
      end
    end
    local free, remaining, next_unit_after = size - debt, 0, 0
    if free > 0 then remaining = (free - free % step) / step end
    if remaining < burst then next_unit_after = debt - (burst - remaining - 1) * step end
-- end whole_token_bucket

factories.token_bucket = function()
  local function intervals(q, n)  -- the time of n units: whole, fraction
    return mul_div(n, q.period, q.limit)
  end

  local function minus(q, a, b, c, d)
    if b < d then return a - c - 1, b + q.limit - d end
    return a - c, b - d
  end

  local function plus(q, a, b, c, d)
    if b + d >= q.limit then return a + c + 1, b + d - q.limit end
    return a + c, b + d
  end

  local function less(a, b, c, d)
    return a < c or (a == c and b < d)
  end

  local function up(a, b)  -- whole microseconds, rounded up, never negative
    if a < 0 then return 0 end
    return b > 0 and a + 1 or a
  end

  local function at_least_0(a, b)
    if a < 0 then return 0, 0 end
    return a, b
  end

  local function used_at(q, a, b)  -- the debt at the end of the time in which the units may be used
    local ahead = q.units > 0 and tonumber(q.lease) or 0
    if a < ahead then return ahead, 0 end
    return a, b
  end

  -- Expiry times are multiples of ttl_quantum here too: the fast path relies on it to leave them.
  local function save(key, _, a, b, born, ahead_until)
    if a == 0 and b == 0 then
      redis.call('DEL', key)
    else
      local value = time_text(now + a) .. ':' .. born
      if b > 0 then value = text(b) .. ':' .. value end
      if ahead_until > now then value = value .. ':h' .. text(ahead_until) end
      set(key, value, ceil_div(now + up(a, b), ttl_quantum) * ttl_quantum)
    end
  end

  return {
    load = function(key, q)
      local value = redis.call('GET', key)
      if not value then return 0, 0, now_text(), 0 end
      local before, ahead_until = string.match(value, '^(.*):h(%d+)$')
      value, ahead_until = before or value, tonumber(ahead_until) or 0
      local fraction, whole, born = string.match(value, '^(%d+):(%d+):(%d+)$')
      if not fraction then whole, born = string.match(value, '^(%d+):(%d+)$') end
      if not whole or #whole ~= 16 then return corrupt() end
      whole, fraction = tonumber(whole), tonumber(fraction) or 0
      -- A state written under another limit may have a fraction that this limit cannot.
      if fraction >= q.limit then whole, fraction = whole + 1, 0 end
      local a, b = at_least_0(whole - now, fraction)
      if a == 0 and b == 0 then return 0, 0, now_text(), 0 end
      local c, d = intervals(q, 2 * q.burst)
      if less(c, d, a, b) then
        a, b = c, d
        save(key, q, a, b, born, ahead_until)
      end
      return a, b, born, ahead_until
    end,

    check = function(_, q, a, b)
      a, b = used_at(q, a, b)
      local c, d = intervals(q, q.burst - q.units)
      if not less(c, d, a, b) then return true, 0 end
      return false, up(minus(q, a, b, c, d))
    end,

    spend = function(q, a, b, born, ahead_until)
      local ahead = q.units > 0 and tonumber(q.lease) or 0
      if ahead > 0 then ahead_until = math.max(ahead_until, now + ahead) end
      a, b = used_at(q, a, b)
      a, b = plus(q, a, b, intervals(q, q.units))
      return a, b, born, ahead_until
    end,

    status = function(_, q, a, b)
      local size_a, size_b = intervals(q, q.burst)
      local free_a, free_b = minus(q, size_a, size_b, a, b)
      local remaining = 0
      if free_a >= 0 then
        -- A quotient of doubles may be off by one or two; the exact comparison corrects it.
        remaining = math.floor((free_a + free_b / q.limit) * q.limit / q.period)
        local c, d = intervals(q, remaining)
        while remaining > 0 and less(free_a, free_b, c, d) do
          remaining = remaining - 1
          c, d = intervals(q, remaining)
        end
        c, d = intervals(q, remaining + 1)
        while remaining < q.burst and not less(free_a, free_b, c, d) do
          remaining = remaining + 1
          c, d = intervals(q, remaining + 1)
        end
      end
      if remaining >= q.burst then return q.burst, 0, up(a, b) end
      local c, d = intervals(q, q.burst - remaining - 1)
      return remaining, up(minus(q, a, b, c, d)), up(a, b)
    end,

    save = save,

    adjust = function(key, q, delta, acquired_at, a, b, born, ahead_until)
      if delta < 0 then
        -- The bucket was reset, lost or full since.
        if acquired_at < tonumber(born) then return end
        local c, d = intervals(q, math.min(-delta, q.units))
        -- What has refilled since is not refunded again.
        local left_a, left_b = intervals(q, q.units)
        left_a, left_b = at_least_0(left_a - math.max(0, math.max(now, ahead_until) - acquired_at), left_b)
        if less(left_a, left_b, c, d) then c, d = left_a, left_b end
        a, b = at_least_0(minus(q, a, b, c, d))
      else
        a, b = plus(q, a, b, intervals(q, math.min(delta, 2 * q.burst)))
        local c, d = intervals(q, 2 * q.burst)
        if less(c, d, a, b) then a, b = c, d end
      end
      save(key, q, a, b, born, ahead_until)
    end,
  }
end
