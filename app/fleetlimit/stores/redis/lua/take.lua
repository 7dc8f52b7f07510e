-- Decide checks one after the other, the charges of each together, and spend them when they fit.
--
-- KEYS       one bucket a charge, the charges of a check side by side
-- ARGV[1]    now in microseconds since the epoch; 0 for the server's clock
-- ARGV[i+1]  for KEYS[i]: `begin algorithm limit period burst units group lease`, where begin is 1
--            for the first charge of a check that spends, 0 of one that only looks, + for the rest
--
-- Returns    now, then for each check: 1 if group 0 was spent, or an error that is this check's
--            alone, and for each of its charges: fits, remaining, retry_us, next_us, reset_us
--
-- Charges of group 0 are spent together or not at all. Each other group is spent together, if it
-- fits, whenever group 0 is: it never refuses.

local keys, words, reply = KEYS, ARGV, { now }

-- The library, and what was asked by its word: made for the first check that needs the longer way.
local lib, asked

local function read(word)
  local begin, rule, limit, period, burst, units, group, lease =
    string.match(word, '^(%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  return {
    commits = begin == '1',
    rule = lib.rule_of(rule),
    limit = tonumber(limit),
    period = tonumber(period),
    burst = tonumber(burst),
    units = tonumber(units),
    group = group,
    lease = lease,
  }
end

-- The charges from first to last are one check, whose figures begin at a place of the reply.
local function decide(first, last, place)
  local states, broken = {}, {}
  for i = first, last do
    local word = words[i + 1]
    -- Most checks of a call ask for the same: it is read once.
    local q = asked[word] or read(word)
    asked[word] = q
    local a, b, c = q.rule.load(keys[i], q)
    if type(a) == 'table' then error(a) end
    local fits, retry_us = q.rule.verdict(keys[i], q, a, b, c)
    if not fits then broken[q.group] = true end
    states[i] = { fits, retry_us, a, b, c }
  end
  local spent = asked[words[first + 1]].commits and not broken['0']
  reply[place] = spent and 1 or 0
  for i = first, last do
    local q = asked[words[i + 1]]
    local fits, retry_us, a, b, c = unpack(states[i], 1, 5)
    if spent and not broken[q.group] then
      a, b, c = q.rule.spend(q, a, b, c)
      q.rule.save(keys[i], q, a, b, c)
    end
    local remaining, next_us, reset_us = q.rule.report(keys[i], q, a, b, c)
    reply[#reply + 1] = fits and 1 or 0
    reply[#reply + 1] = remaining
    reply[#reply + 1] = retry_us
    reply[#reply + 1] = next_us
    reply[#reply + 1] = reset_us
  end
end

local function decide_safely(first, last, place)
  if not lib then
    lib, asked = library(), {}
  end
  -- Before Redis 7 an error within is text, since then a table.
  local done, failure = pcall(decide, first, last, place)
  if not done then
    for i = place + 1, place + (last - first + 1) * 5 do reply[i] = 0 end
    reply[place] = redis.error_reply(type(failure) == 'table' and failure.err or failure)
  end
end

-- Nearly all checks ask one token bucket of which a unit's time is whole microseconds, so that nothing
-- has a part. They are decided right here, as token_bucket.lua would: to make the library, and to call
-- its functions, takes longer than the commands themselves.
local word, simple, step, size, cost, burst, refuses
local i, place, following = 1, 2, words[2]
while following do
  if following ~= word then
    word = following
    local limit, period, units, group
    limit, period, burst, units, group =
      string.match(word, '^1 token_bucket (%d+) (%d+) (%d+) (%d+) (%d+) ')
    simple = limit and period % limit == 0 and units ~= '0'
    if simple then
      step, burst, refuses = period / limit, tonumber(burst), group == '0'
      size, cost = step * burst, step * units
    end
  end
  local first = i
  repeat
    i = i + 1
    following = words[i + 1]
  until following == word or not following or string.byte(following) ~= 43  -- '+'

  local key = keys[first]
  local full = simple and i == first + 1 and tonumber(redis.pcall('GET', key) or 0)
  -- What is no such number, an error included, is the longer way's.
  if full and full >= 0 and full % 1 == 0 then
    local debt = full > now and full - now or 0
    local retry = debt + cost - size
    local fits = retry <= 0
    if fits then
      debt, retry = debt + cost, 0
      local whole = now + debt
      local goes = whole + slot - 1
      goes = goes - goes % slot
      if full > goes - slot then  -- it is the key's time already
        redis.call('SET', key, whole, 'KEEPTTL')
      else
        redis.call('SET', key, whole, 'PXAT', math.ceil((goes + ahead) / 1000))
      end
    end
    local free, remaining, next_us = size - debt, 0, 0
    if free > 0 then remaining = (free - free % step) / step end
    if remaining < burst then next_us = debt - (burst - remaining - 1) * step end
    reply[place] = (fits or not refuses) and 1 or 0
    reply[place + 1] = fits and 1 or 0
    reply[place + 2] = remaining
    reply[place + 3] = retry
    reply[place + 4] = next_us
    reply[place + 5] = debt
  else
    decide_safely(first, i - 1, place)
  end
  place = place + 1 + (i - first) * 5
end
return reply
