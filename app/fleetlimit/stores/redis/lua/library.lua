-- Algorithms and their helpers. load_script() wraps this file and every algorithm's file in
-- `library()`. A script calls it only when needed, because Lua builds the closures in each call.
--
-- Each algorithm is a factory of a table of functions. Its state is up to three numbers:
--
--   load(key, q)                 read the bucket: a, b, c; a is an error table for a foreign value.
--                                Writes it where a lower limit or a step back of the clock left it
--                                too far ahead, so that no caller waits for that long.
--   check(key, q, a, b, c)       allowed, retry_after_us for q.units
--   spend(q, a, b, c)            the state after spending q.units: a, b, c
--   status(key, q, a, b, c)      remaining, next_unit_after_us, reset_after_us
--   save(key, q, a, b, c)        write the bucket and its expiry
--   adjust(key, q, delta, acquired_at, a, b, c)   correct an earlier charge, and save
--
-- `q` is a charge: limit, period and burst of its quota, its units and its lease.

local factories, instances, lib = {}, {}, {}

function lib.algorithm_for(name)
  local algorithm = instances[name] or factories[name]()
  instances[name] = algorithm
  return algorithm
end

local function div(a, b)  -- floor(a / b), exact
  return (a - a % b) / b
end

local function ceil_div(a, b)
  return div(a + b - 1, b)
end

local function text(n)  -- all digits: `..` prints a number with only 14
  return string.format('%.0f', n)
end

-- The key's expiry on the server's clock, in milliseconds, rounded up and always in the future. It
-- is an instant and not a TTL: a TTL counts from the start of the current millisecond, and the key
-- would expire up to a millisecond before its state does.
local function expiry_ms(at)
  if at <= now then at = now + 1 end
  return ceil_div(at + test_clock_offset, 1000)
end

local function set(key, value, at)
  redis.call('SET', key, value, 'PXAT', expiry_ms(at))
end

local function corrupt()
  return redis.error_reply('WRONGTYPE a bucket holds a value of another program')
end

-- Parse a string of `few` to `many` numbers joined by ':'. Returns nil for nil, and an error table
-- for any other value.
local function numbers(value, few, many)
  if not value then return nil end
  local a, b, c = string.match(value, '^(%d+):?(%d*):?(%d*)$')
  a, b, c = tonumber(a), tonumber(b), tonumber(c)
  local count = c and (b and 3 or 0) or b and 2 or a and 1 or 0
  if count < few or count > many then return corrupt() end
  return a, b, c
end

lib.text, lib.expiry_ms = text, expiry_ms
