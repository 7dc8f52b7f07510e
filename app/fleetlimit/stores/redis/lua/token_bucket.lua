-- Token bucket (GCRA), the twin of core/algorithms/token_bucket.py.
--
-- KEYS   one string: when the bucket will be full, as `whole` or `whole:part` (part in 1/limit us)
-- STATE  a, b = debt: microseconds, and 1/limit of a microsecond, until the bucket is full

algorithms.token_bucket = function()
  local function intervals(q, n)  -- the time of n units, as whole and part
    local rest = q.period % q.limit
    local part = n * rest
    return n * ((q.period - rest) / q.limit) + div(part, q.limit), part % q.limit
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

  -- A key goes at the end of the slot of time in which its bucket is full: `take` leaves that alone
  -- while a bucket stays within one slot.
  local function bucket_save(key, _, a, b)
    if a == 0 and b == 0 then
      redis.call('DEL', key)
    else
      local value = b == 0 and now + a or text(now + a) .. ':' .. b
      set(key, value, ceil_div(now + up(a, b), slot) * slot)
    end
  end

  return {
    load = function(key, q)
      local whole, part = numbers(redis.call('GET', key), 1, 2)
      if not whole then return 0, 0 end
      if type(whole) == 'table' then return whole end
      part = part or 0
      -- A state written under another limit may hold a part that this limit does not have.
      if part >= q.limit then whole, part = whole + 1, 0 end
      return at_least_0(whole - now, part)
    end,

    verdict = function(_, q, a, b)
      local c, d = intervals(q, q.burst - q.units)
      if not less(c, d, a, b) then return true, 0 end
      return false, up(minus(q, a, b, c, d))
    end,

    spend = function(q, a, b)
      return plus(q, a, b, intervals(q, q.units))
    end,

    report = function(_, q, a, b)
      local full_a, full_b = intervals(q, q.burst)
      local free_a, free_b = minus(q, full_a, full_b, a, b)
      local remaining = 0
      if free_a >= 0 then
        -- The quotient of doubles may be off by one at a boundary; the exact comparison mends it.
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

    save = bucket_save,

    settle = function(key, q, delta, _, a, b)
      if delta < 0 then
        a, b = minus(q, a, b, intervals(q, -delta))
      else
        a, b = plus(q, a, b, intervals(q, delta))
      end
      a, b = at_least_0(a, b)
      -- What is spent without asking makes no debt beyond two bursts: it must not lock out for long.
      local c, d = intervals(q, 2 * q.burst)
      if less(c, d, a, b) then a, b = c, d end
      bucket_save(key, q, a, b)
    end,
  }
end
