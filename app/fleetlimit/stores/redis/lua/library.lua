-- What algorithms are made of: `library()` has this and all of them within it, and a script calls it
-- only where it needs one, because the server makes everything anew with each call.
--
-- Each algorithm is a function that makes a table of functions over a state of up to three numbers:
--
--   load(key, q)                 one read of the bucket: a, b, c
--   spend(q, a, b, c)            the state after spending: a, b, c
--   verdict(key, q, a, b, c)     fits, retry_us for q.units
--   report(key, q, a, b, c)      remaining, next_us, reset_us
--   save(key, q, a, b, c)        one write of the bucket, with its time to live
--
-- and settle(key, q, delta, taken_us, a, b, c), which corrects and saves. `q` says what is asked of
-- a bucket: limit, period, burst, units and lease.

local algorithms, made, lib = {}, {}, {}

function lib.rule_of(name)
  local rule = made[name] or algorithms[name]()
  made[name] = rule
  return rule
end

local function div(a, b)  -- floor(a / b), exact
  return (a - a % b) / b
end

local function ceil_div(a, b)
  return div(a + b - 1, b)
end

local function text(n)  -- all digits: joined with `..` a number keeps only 14
  return string.format('%.0f', n)
end

-- The server's millisecond in which a key is to go, rounded up and never one that is past. It is a
-- time and not a time to live: that would be counted from the start of the current millisecond, and
-- the key would go up to a millisecond before its state says nothing.
local function expiry_ms(at)
  if at <= now then at = now + 1 end
  return ceil_div(at + ahead, 1000)
end

local function set(key, value, at)
  redis.call('SET', key, value, 'PXAT', expiry_ms(at))
end

local function corrupt()
  return redis.error_reply('WRONGTYPE a bucket holds a value of another program')
end

-- Numbers joined by ':' back from a string value, at least `few` and at most `many` of them; nil
-- without a value.
local function numbers(value, few, many)
  if not value then return nil end
  local a, b, c = string.match(value, '^(%d+):?(%d*):?(%d*)$')
  a, b, c = tonumber(a), tonumber(b), tonumber(c)
  local count = c and (b and 3 or 0) or b and 2 or a and 1 or 0
  if count < few or count > many then return corrupt() end
  return a, b, c
end

lib.text, lib.expiry_ms = text, expiry_ms
