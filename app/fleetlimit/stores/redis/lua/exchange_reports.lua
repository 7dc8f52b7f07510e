-- Store a replica's usage report, and return all reports to the replica that compares them.
--
-- KEYS[1]  hash: `reported_at:report` by replica name; the empty name holds the bounds
-- KEYS[2]  sorted set of the replicas that may compare, scored by their expiry
-- ARGV[1]  now in microseconds since the epoch; 0 for the server's clock
-- ARGV[2]  the replica's name
-- ARGV[3]  its report
-- ARGV[4]  new bounds for all replicas, from the one that compares; empty to keep the current ones
-- ARGV[5]  time to live of reports in microseconds
-- ARGV[6]  1 with a replica's last report
--
-- Returns  now, the bounds; then, for the first replica by name only: each replica's name and its
--          `reported_at:report`

local reports, replicas, name = KEYS[1], KEYS[2], ARGV[2]
local ttl, last = tonumber(ARGV[5]), ARGV[6] == '1'
local lib = library()
local text, expiry_ms = lib.text, lib.expiry_ms

redis.call('HSET', reports, name, text(now) .. ':' .. ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', reports, '', ARGV[4]) end
redis.call('PEXPIREAT', reports, expiry_ms(now + ttl))
redis.call('ZREMRANGEBYSCORE', replicas, '-inf', now)
if last then
  redis.call('ZREM', replicas, name)
else
  redis.call('ZADD', replicas, now + ttl, name)
  redis.call('PEXPIREAT', replicas, expiry_ms(now + ttl))
end

local reply = { now, redis.call('HGET', reports, '') or '' }
if last then return reply end
for _, other in ipairs(redis.call('ZRANGE', replicas, 0, -1)) do
  if other < name then return reply end
end
local fields = redis.call('HGETALL', reports)
for i = 1, #fields, 2 do
  local reported_at = tonumber(string.match(fields[i + 1], '^(%d+):'))
  if fields[i] ~= '' and reported_at and reported_at > now - ttl then
    reply[#reply + 1] = fields[i]
    reply[#reply + 1] = fields[i + 1]
  elseif fields[i] ~= '' then
    redis.call('HDEL', reports, fields[i])
  end
end
return reply
