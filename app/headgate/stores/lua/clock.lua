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
