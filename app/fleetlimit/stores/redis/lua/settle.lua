-- Correct charges that were spent: give units back, spend more without asking, or renew a lease.
--
-- KEYS     one bucket a settlement
-- ARGV[1]  now in microseconds since the epoch; 0 for the server's clock
-- then for each: algorithm, limit, period, burst, delta, taken_us, units, lease
--
-- Returns  now

local width, rule_of = 8, library().rule_of

for i = 1, #KEYS do
  local at = 1 + (i - 1) * width
  local rule = rule_of(ARGV[at + 1])
  local q = {
    limit = tonumber(ARGV[at + 2]),
    period = tonumber(ARGV[at + 3]),
    burst = tonumber(ARGV[at + 4]),
    units = tonumber(ARGV[at + 7]),
    lease = ARGV[at + 8],
  }
  local a, b, c = rule.load(KEYS[i], q)
  if type(a) == 'table' then return a end
  rule.settle(KEYS[i], q, tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), a, b, c)
end

return now
