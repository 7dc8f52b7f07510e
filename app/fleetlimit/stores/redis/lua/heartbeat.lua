-- Announce a replica, count the live ones, and tell whether the store still has its state.
--
-- KEYS[1]  sorted set of replicas, scored by when they stop counting
-- KEYS[2]  string: a random mark, lost together with everything else
-- ARGV[1]  now in microseconds since the epoch; 0 for the server's clock
-- ARGV[2]  the replica's name      ARGV[3]  microseconds to live; 0 to leave
-- ARGV[4]  a fresh mark, taken if there is none
--
-- Returns  number of live replicas, the mark, the server's run_id (empty where it may not be asked)

local ttl, expiry_ms = tonumber(ARGV[3]), library().expiry_ms
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ttl > 0 then
  redis.call('ZADD', KEYS[1], now + ttl, ARGV[2])
  redis.call('PEXPIREAT', KEYS[1], expiry_ms(now + ttl))
else
  redis.call('ZREM', KEYS[1], ARGV[2])
end

local mark = redis.call('GET', KEYS[2])
if not mark then mark = ARGV[4] end
-- A day without any replica is the longest that a loss of state can go unnoticed.
redis.call('SET', KEYS[2], mark, 'PX', 86400000)
-- A user without the permission for INFO still limits; a change of server then goes unnoticed.
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
return { redis.call('ZCARD', KEYS[1]), mark, run }
