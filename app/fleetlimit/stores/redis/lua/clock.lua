-- Time of a script call. Every script starts with this file.
--
-- ARGV[1]  now: microseconds since the epoch; 0 for the server's clock
--
-- Every number in these scripts is an integer below 2^53. A Lua number (a double) holds it exactly,
-- and the server writes all its digits where a command takes a number.

-- With a test clock, keys live one real hour longer than their state, so that the state expires by
-- the test clock and never by the real one.
local now, test_clock_offset = tonumber(ARGV[1]), 0
local time = redis.call('TIME')
time = time[1] * 1000000 + time[2]
if now == 0 then now = time else test_clock_offset = time - now + 3600000000 end

-- Expiry times of token buckets are rounded up to multiples of this many microseconds. While the
-- expiry stays the same, a check writes the value alone (SET ... KEEPTTL). Larger: fewer expiry
-- writes. Smaller: the keys of idle callers go sooner.
local ttl_quantum = 10000000
