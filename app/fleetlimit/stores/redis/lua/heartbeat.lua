-- Announce a replica and its key secret, count the live replicas, and return the epoch, which changes
-- with a loss of state.
--
-- KEYS[1]  sorted set of replicas, scored by their expiry
-- KEYS[2]  string: the epoch, a random mark that is lost together with all other state
-- KEYS[3]  sorted set of fingerprints of the replicas' key secrets, scored by their expiry
-- ARGV[1]  now in microseconds since the epoch; 0 for the server's clock
-- ARGV[2]  the replica's name
-- ARGV[3]  time to live in microseconds; 0 to leave
-- ARGV[4]  a new epoch, used if there is none
-- ARGV[5]  fingerprint of the replica's key secret
--
-- Returns  number of live replicas, the epoch, and the server's run_id, which is empty without the
--          permission for INFO; then the fingerprints

local day = 86400000000
local ttl, expiry_ms = tonumber(ARGV[3]), library().expiry_ms
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ttl > 0 then
  redis.call('ZADD', KEYS[1], now + ttl, ARGV[2])
  redis.call('PEXPIREAT', KEYS[1], expiry_ms(now + ttl))
  -- Expired fingerprints are removed by live replicas alone: without any, the last ones stay for a
  -- day and show which secret names the buckets that they left.
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  redis.call('ZADD', KEYS[3], now + ttl, ARGV[5])
  redis.call('PEXPIREAT', KEYS[3], expiry_ms(now + day))
else
  redis.call('ZREM', KEYS[1], ARGV[2])
end

local epoch = redis.call('GET', KEYS[2])
if not epoch then epoch = ARGV[4] end
-- After a day without any replica, a loss of state can go unnoticed.
redis.call('SET', KEYS[2], epoch, 'PX', day / 1000)
-- A user without the permission for INFO still limits; a change of server then goes unnoticed.
local info = redis.pcall('INFO', 'server')
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
return { redis.call('ZCARD', KEYS[1]), epoch, run_id, redis.call('ZRANGE', KEYS[3], 0, -1) }
