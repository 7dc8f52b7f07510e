-- Keep what a replica says that it let in, and hand what all have said to the one that compares.
--
-- KEYS[1]  hash: `time:statement` by the replica's name, and under no name the word to all
-- KEYS[2]  sorted set of the replicas that could compare, scored by when they stop to
-- ARGV[1]  now in microseconds since the epoch; 0 for the server's clock
-- ARGV[2]  the replica's name      ARGV[3]  its statement
-- ARGV[4]  the word to all, from the one that compares; empty to leave the one there is
-- ARGV[5]  microseconds that all this is kept      ARGV[6]  1 if it is the replica's last statement
--
-- Returns  now, the word, then for the first replica by name: each name and its `time:statement`

local statements, replicas, name = KEYS[1], KEYS[2], ARGV[2]
local ttl, last = tonumber(ARGV[5]), ARGV[6] == '1'
local lib = library()
local text, expiry_ms = lib.text, lib.expiry_ms

redis.call('HSET', statements, name, text(now) .. ':' .. ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', statements, '', ARGV[4]) end
redis.call('PEXPIREAT', statements, expiry_ms(now + ttl))
redis.call('ZREMRANGEBYSCORE', replicas, '-inf', now)
if last then
  redis.call('ZREM', replicas, name)
else
  redis.call('ZADD', replicas, now + ttl, name)
  redis.call('PEXPIREAT', replicas, expiry_ms(now + ttl))
end

local reply = { now, redis.call('HGET', statements, '') or '' }
if last then return reply end
for _, other in ipairs(redis.call('ZRANGE', replicas, 0, -1)) do
  if other < name then return reply end
end
local found = redis.call('HGETALL', statements)
for i = 1, #found, 2 do
  local at = tonumber(string.match(found[i + 1], '^(%d+):'))
  if found[i] ~= '' and at and at > now - ttl then
    reply[#reply + 1] = found[i]
    reply[#reply + 1] = found[i + 1]
  elseif found[i] ~= '' then
    redis.call('HDEL', statements, found[i])
  end
end
return reply
