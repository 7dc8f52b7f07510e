-- What every script starts with: its time, as microseconds since the epoch.
--
-- Every number here is an integer below 2^53, which a Lua number (a double) holds exactly, and which
-- the server writes in full where a command is given one.

-- A test may move its own clock, given in ARGV[1]. Keys then live an hour longer in real time, so
-- that it is the moved clock, and never the real one, that a state expires by.
local now, ahead = tonumber(ARGV[1]), 0
local time = redis.call('TIME')
time = time[1] * 1000000 + time[2]
if now == 0 then now = time else ahead = time - now + 3600000000 end

-- The key of a token bucket goes at the end of the slot in which the bucket is full, so that most checks
-- write the value alone. A slot is longer than most units take to come back, and short because what is
-- left by callers who do not come again stays for as long.
local slot = 10000000
