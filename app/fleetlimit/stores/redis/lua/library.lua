-- Algorithms and their helpers. load_script() wraps this file and every algorithm's file in
-- `library()`. A script calls it only when needed, because Lua builds the closures in each call.
--
-- Each algorithm is a factory of a table of functions. Its state is up to four values:
--
--   load(key, q)                 read the bucket: a, b, c, d; a is an error table for a foreign
--                                value. Writes it where a lower limit or a step back of the clock
--                                left it too far ahead, so that no caller waits for that long.
--   check(key, q, a, b, c)       allowed, retry_after_us for q.units
--   spend(q, a, b, c, d)         the state after spending q.units: a, b, c, d
--   status(key, q, a, b, c)      remaining, next_unit_after_us, reset_after_us
--   save(key, q, a, b, c, d)     write the bucket and its expiry
--   adjust(key, q, delta, acquired_at, a, b, c, d)   correct an earlier charge, and save
--
-- `born` is the last value of the state of counters. It is the time at which the bucket was created,
-- or was last found full. A charge of an earlier time is not in the bucket and is not refunded: the
-- bucket was reset, its key was evicted, or the server lost its state. It stays text, because only
-- adjust() computes with it.
--
-- `q` is a charge: limit, period and burst of its quota, its units and its lease or boundaries.

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

-- floor(n * m / d) and the remainder, exact, for n below 2^48, d up to 2^46, and m and the quotient
-- below 2^53. A product beyond 2^53 takes a long division, by the digits of n, of six bits each: the
-- intermediate values stay below 127 * d.
local function mul_div(n, m, d)
  local part = m % d
  local quotient, product = n * ((m - part) / d), n * part
  if product < 2^53 then return quotient + div(product, d), product % d end
  local digits, rest, unit = 0, 0, 2^42
  repeat
    local below = n % unit
    local value = rest * 64 + (n - below) / unit * part
    rest = value % d
    digits, n, unit = digits * 64 + (value - rest) / d, below, unit / 64
  until unit < 1
  return quotient + digits, rest
end

local function text(n)  -- all digits: `..` prints a number with only 14
  return string.format('%.0f', n)
end

-- A time with 16 digits, which are those of any time from 2001 to 2286.
local function time_text(at)
  return string.format('%016.0f', at)
end

local now_digits
local function now_text()
  now_digits = now_digits or time_text(now)
  return now_digits
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

lib.text, lib.expiry_ms = text, expiry_ms
