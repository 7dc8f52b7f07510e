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

-- What is asked, by its word. Most checks of a call ask for the same: it is read once.
local asked = setmetatable({}, { __index = function(read, word)
  if not word then return nil end
  local begin, rule, limit, period, burst, units, group, lease =
    string.match(word, '^(%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  local q = {
    commits = begin == '1',
    joins = begin == '+',
    rule = rule,
    limit = tonumber(limit),
    period = tonumber(period),
    burst = tonumber(burst),
    units = tonumber(units),
    group = group,
    lease = lease,
  }
  q.alone = alone[rule] and alone[rule](q)
  read[word] = q
  return q
end })

local reply, at = { now }, 2

local function decide(first, last)
  local states, broken = {}, {}
  for i = first, last do
    local q = asked[ARGV[i + 1]]
    local rule = rule_of(q.rule)
    local a, b, c = rule.load(KEYS[i], q)
    if type(a) == 'table' then error(a) end
    local fits, retry_us = rule.verdict(KEYS[i], q, a, b, c)
    if not fits then broken[q.group] = true end
    states[i] = { fits, retry_us, a, b, c }
  end
  local spent = asked[ARGV[first + 1]].commits and not broken['0']
  reply[at] = spent and 1 or 0
  for i = first, last do
    local q = asked[ARGV[i + 1]]
    local rule = rule_of(q.rule)
    local fits, retry_us, a, b, c = unpack(states[i], 1, 5)
    if spent and not broken[q.group] then
      a, b, c = rule.spend(q, a, b, c)
      rule.save(KEYS[i], q, a, b, c)
    end
    local remaining, next_us, reset_us = rule.report(KEYS[i], q, a, b, c)
    reply[#reply + 1] = fits and 1 or 0
    reply[#reply + 1] = remaining
    reply[#reply + 1] = retry_us
    reply[#reply + 1] = next_us
    reply[#reply + 1] = reset_us
  end
end

local first, q = 1, asked[ARGV[2]]
while q do
  local last, following = first, asked[ARGV[first + 2]]
  while following and following.joins do
    last = last + 1
    following = asked[ARGV[last + 2]]
  end
  local charges = last - first + 1
  if charges > 1 or not q.alone or not q.alone(KEYS[first], reply, at) then
    -- Before Redis 7 an error within is text, since then a table.
    local done, failure = pcall(decide, first, last)
    if not done then
      for i = at + 1, at + charges * 5 do reply[i] = 0 end
      reply[at] = redis.error_reply(type(failure) == 'table' and failure.err or failure)
    end
  end
  at = at + 1 + charges * 5
  first, q = last + 1, following
end
return reply
