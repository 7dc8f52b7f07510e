-- Decide checks one after the other, the charges of each together, and spend them when they fit.
--
-- KEYS       one bucket for each charge, the charges of a check side by side
-- ARGV[1]    now in microseconds since the epoch; 0 for the server's clock
-- ARGV[i+1]  the encoded charge of KEYS[i]: `begin algorithm limit period burst units group lease`
--            (in place of the lease, calendar_window has the boundaries of windows, and token_bucket
--            the microseconds in which the units may be used; nothing for none),
--            where begin is 1 for the first charge of a check that spends, 0 for the first of a dry
--            run, and + for every further charge of the same check
--
-- Returns    now, then for each check: 1 if group 0 (ENFORCED_GROUP) was spent, else 0, or an error of this check
--            alone; and for each of its charges: allowed, remaining, retry_after_us,
--            next_unit_after_us, reset_after_us
--
-- Charges of group 0 are spent together or not at all. Each other group is spent together, if it
-- fits, whenever group 0 is; it never denies the check (shadow).

local keys, encoded_charges, reply = KEYS, ARGV, { now }

-- The library, and the parsed charges. Created for the first check that is not on the fast path.
local lib, parsed_charges

local function parse(encoded)
  local begin, algorithm, limit, period, burst, units, group, lease =
    string.match(encoded, '^(%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  return {
    spends = begin == '1',
    algorithm = lib.algorithm_for(algorithm),
    limit = tonumber(limit),
    period = tonumber(period),
    burst = tonumber(burst),
    units = tonumber(units),
    group = group,
    lease = lease,
  }
end

-- Decide the check of the charges first..last; its reply starts at reply_at.
local function decide(first, last, reply_at)
  local results, denied_groups = {}, {}
  for i = first, last do
    local encoded = encoded_charges[i + 1]
    -- Most checks of a call have the same encoded charge, so each is parsed once.
    local q = parsed_charges[encoded] or parse(encoded)
    parsed_charges[encoded] = q
    local a, b, c, d = q.algorithm.load(keys[i], q)
    if type(a) == 'table' then error(a) end
    local allowed, retry_after = q.algorithm.check(keys[i], q, a, b, c)
    if not allowed then denied_groups[q.group] = true end
    results[i] = { allowed, retry_after, a, b, c, d }
  end
  local spent = parsed_charges[encoded_charges[first + 1]].spends and not denied_groups['0']
  reply[reply_at] = spent and 1 or 0
  for i = first, last do
    local q = parsed_charges[encoded_charges[i + 1]]
    local allowed, retry_after, a, b, c, d = unpack(results[i], 1, 6)
    if spent and not denied_groups[q.group] then
      a, b, c, d = q.algorithm.spend(q, a, b, c, d)
      q.algorithm.save(keys[i], q, a, b, c, d)
    end
    local remaining, next_unit_after, reset_after = q.algorithm.status(keys[i], q, a, b, c)
    reply[#reply + 1] = allowed and 1 or 0
    reply[#reply + 1] = remaining
    reply[#reply + 1] = retry_after
    reply[#reply + 1] = next_unit_after
    reply[#reply + 1] = reset_after
  end
end

local function decide_safely(first, last, reply_at)
  if not lib then
    lib, parsed_charges = library(), {}
  end
  -- Errors inside pcall are strings before Redis 7, and tables since.
  local done, failure = pcall(decide, first, last, reply_at)
  if not done then
    for i = reply_at + 1, reply_at + (last - first + 1) * 5 do reply[i] = 0 end
    reply[reply_at] = redis.error_reply(type(failure) == 'table' and failure.err or failure)
  end
end

-- Nearly all checks charge one token bucket whose units refill in whole microseconds. They take the
-- fast path: no library, no table per charge and no function call. It needs times of 16 digits, which
-- only a test clock does not have.
local call, protected_call = redis.call, redis.pcall
local encoded, is_fast, step, size, cost, burst, enforced, new_bucket
local i, reply_at, next_encoded = 1, 2, encoded_charges[2]
while next_encoded do
  if next_encoded ~= encoded then
    encoded = next_encoded
    local limit, period, units, group, ahead
    limit, period, burst, units, group, ahead =
      string.match(encoded, '^1 token_bucket (%d+) (%d+) (%d+) (%d+) (%d+) (%d*)')
    is_fast = limit and period % limit == 0 and units ~= '0' and now >= 1e15 and not tonumber(ahead)
    if is_fast then
      step, burst, enforced = period / limit, tonumber(burst), group == '0'
      size, cost = step * burst, step * units
      new_bucket = nil
    end
  end
  local first = i
  repeat
    i = i + 1
    next_encoded = encoded_charges[i + 1]
  until next_encoded == encoded or not next_encoded or string.byte(next_encoded) ~= 43  -- '+'

  local key = keys[first]
  local tat = is_fast and i == first + 1 and protected_call('GETRANGE', key, '0', '15')
  if tat then tat = tonumber(tat == '' and 1e15 or tat) end
  -- Any other value, a debt that load() must bound, and an error of GETRANGE go to the library.
  if tat and tat >= 1e15 and tat % 1 == 0 and tat - now <= 2 * size then
    -- insert whole_token_bucket
    reply[reply_at] = (allowed or not enforced) and 1 or 0
    reply[reply_at + 1] = allowed and 1 or 0
    reply[reply_at + 2] = remaining
    reply[reply_at + 3] = retry_after
    reply[reply_at + 4] = next_unit_after
    reply[reply_at + 5] = debt
  else
    decide_safely(first, i - 1, reply_at)
  end
  reply_at = reply_at + 1 + (i - first) * 5
end
return reply
