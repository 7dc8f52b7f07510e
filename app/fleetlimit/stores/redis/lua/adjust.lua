-- Correct earlier charges: refund units, or spend more without a check. The units that stay held under
-- a lease are renewed; a delta of 0 renews the whole lease (Store.renew).
--
-- KEYS     one bucket for each adjustment
-- ARGV[1]  now in microseconds since the epoch; 0 for the server's clock
-- then for each key: algorithm, limit, period, burst, delta, acquired_at, units, lease or boundaries
--
-- Returns  now; then for each key 0, or the error of a bucket with a foreign value or of a calendar.
--          Another error, which is not of one bucket, is the whole reply, after all other buckets were adjusted

local width, algorithm_for = 8, library().algorithm_for

local function adjust(i)
  local at = 1 + (i - 1) * width
  local algorithm = algorithm_for(ARGV[at + 1])
  local q = {
    limit = tonumber(ARGV[at + 2]),
    period = tonumber(ARGV[at + 3]),
    burst = tonumber(ARGV[at + 4]),
    units = tonumber(ARGV[at + 7]),
    lease = ARGV[at + 8],
  }
  local a, b, c, d = algorithm.load(KEYS[i], q)
  if type(a) == 'table' then error(a) end
  algorithm.adjust(KEYS[i], q, tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), a, b, c, d)
end

local reply, rejection = { now }, nil
for i = 1, #KEYS do
  -- Without pcall, one corrupt bucket would end the adjustments of the buckets after it.
  local done, failure = pcall(adjust, i)
  reply[i + 1] = 0
  if not done then
    -- Errors inside pcall are strings before Redis 7, and tables since.
    if type(failure) == 'table' then failure = failure.err end
    reply[i + 1] = redis.error_reply(failure)
    local is_of_bucket = string.find(failure, 'WRONGTYPE', 1, true) or string.find(failure, 'CALENDAR', 1, true)
    if not is_of_bucket then rejection = rejection or reply[i + 1] end
  end
end

return rejection or reply
