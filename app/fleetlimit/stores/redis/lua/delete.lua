-- Delete buckets, and count them.
--
-- KEYS     the buckets
-- ARGV[1]  now in microseconds since the epoch; 0 for the server's clock
--
-- Returns  how many buckets existed

local deleted = 0
for _, key in ipairs(KEYS) do deleted = deleted + redis.call('DEL', key) end
return deleted
