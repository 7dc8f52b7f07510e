-- Decide all charges of a check together, and spend them when they fit.
--
-- KEYS     one bucket a charge
-- ARGV[1]  now in microseconds since the epoch; 0 for the server's clock
-- ARGV[2]  1 to spend, 0 only to look
-- then for each charge: algorithm, limit, period, burst, units, group, lease
--
-- Returns  now, 1 if group 0 was spent, then for each charge:
--          fits, remaining, retry_us, next_us, reset_us
--
-- Charges of group 0 are spent together or not at all. Each other group is spent together, if it
-- fits, whenever group 0 is: it never refuses.

local width = 7
local buckets, broken = {}, {}

for i = 1, #KEYS do
  local at = 2 + (i - 1) * width
  local q = {
    key = KEYS[i],
    rule = algorithms[ARGV[at + 1]],
    limit = tonumber(ARGV[at + 2]),
    period = tonumber(ARGV[at + 3]),
    burst = tonumber(ARGV[at + 4]),
    units = tonumber(ARGV[at + 5]),
    group = ARGV[at + 6],
    lease = ARGV[at + 7],
  }
  q.a, q.b, q.c = q.rule.load(q, now)
  if type(q.a) == 'table' then return q.a end
  q.fits, q.retry = q.rule.verdict(q, now, q.units, q.a, q.b, q.c)
  if not q.fits then broken[q.group] = true end
  buckets[i] = q
end

local spent = ARGV[2] == '1' and not broken['0']
local reply = { now, spent and 1 or 0 }

for i = 1, #buckets do
  local q = buckets[i]
  if spent and not broken[q.group] then
    q.a, q.b, q.c = q.rule.spend(q, now, q.units, q.a, q.b, q.c)
    q.rule.save(q, now, q.units, q.a, q.b, q.c)
  end
  local remaining, next_us, reset_us = q.rule.report(q, now, q.a, q.b, q.c)
  local at = #reply
  reply[at + 1] = q.fits and 1 or 0
  reply[at + 2] = remaining
  reply[at + 3] = q.retry
  reply[at + 4] = next_us
  reply[at + 5] = reset_us
end

return reply
