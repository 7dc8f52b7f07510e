-- Sliding log, the twin of core/algorithms/sliding_log.py.
--
-- KEYS   one list: the sum of all units, then blocks of entries, oldest first. A block is
--        `sum|time:units;time:units;...` and begins with the sum of its own units. No two entries
--        have the same time.
-- STATE  a = units spent within the last period, after expired entries were dropped;
--        b = time of the last entry
--
-- A list of single entries would need a command for each entry that expires: dropping 10,000 of
-- them blocked the server for 100 ms. Blocks are read, dropped and searched in a few commands.

factories.sliding_log = function()
  local max_block_length, blocks_per_read = 1000, 32

  local function block_of(sum, entries)
    return sum .. '|' .. entries
  end

  local function parse(block)  -- sum of the units, entries
    local sum, entries = string.match(block, '^(%d+)|(%d+:%d.*)$')
    return tonumber(sum), entries
  end

  local function entry_of(at, units)
    return text(at) .. ':' .. units
  end

  local function sum_of(block)
    return tonumber(string.match(block, '^(%d+)|'))
  end

  local function last_entry(block)
    -- An entry has fewer than 32 characters. A search of the whole block would try each of them.
    local at, units = string.match(string.sub(block, -32), '(%d+):(%d+)$')
    return tonumber(at), tonumber(units)
  end

  -- Read blocks, oldest first, until visit(block, index) returns true.
  local function each_block(key, visit)
    local index = 1
    repeat
      local blocks = redis.call('LRANGE', key, index, index + blocks_per_read - 1)
      for _, block in ipairs(blocks) do
        if visit(block, index) then return end
        index = index + 1
      end
    until #blocks < blocks_per_read
  end

  local function expire(key, q, last_at)
    redis.call('PEXPIREAT', key, expiry_ms(last_at + q.period))
  end

  local function create(key, q, at, units)
    redis.call('DEL', key)
    redis.call('RPUSH', key, units, block_of(units, entry_of(at, units)))
    expire(key, q, at)
  end

  local function append(key, q, at, units, used)
    if used == 0 then
      create(key, q, at, units)
      return
    end
    local block = redis.call('LINDEX', key, -1)
    local sum, entries = parse(block)
    local last_at, last_units = last_entry(block)
    if at == last_at then
      entries = string.sub(entries, 1, -1 - #tostring(last_units)) .. last_units + units
      redis.call('LSET', key, -1, block_of(sum + units, entries))
    elseif #entries < max_block_length then
      redis.call('LSET', key, -1, block_of(sum + units, entries .. ';' .. entry_of(at, units)))
    else
      redis.call('RPUSH', key, block_of(units, entry_of(at, units)))
    end
    redis.call('LSET', key, 0, used + units)
    expire(key, q, at)
  end

  -- Microseconds until the oldest `missing` units have expired.
  local function wait_for(key, q, missing)
    local wait = 0
    each_block(key, function(block)
      local sum = sum_of(block)
      if missing > sum then
        missing = missing - sum
        return false
      end
      for at, units in string.gmatch(block, '(%d+):(%d+)') do
        missing = missing - units
        if missing <= 0 then
          wait = at + q.period - now
          break
        end
      end
      return true
    end)
    return wait
  end

  -- Drop expired entries from a log whose first entry has expired and whose last has not. Return
  -- the units left.
  local function drop_expired(key, since, used)
    local dropped, boundary, boundary_sum = -1, nil, 0
    each_block(key, function(block)
      -- All blocks before the last one that begins with an expired entry have expired.
      local sum, first_at = string.match(block, '^(%d+)|(%d+)')
      if tonumber(first_at) > since then return true end
      used, dropped, boundary, boundary_sum = used - boundary_sum, dropped + 1, block, sum
      return false
    end)
    local expired, kept_from, _, entries = 0, nil, parse(boundary)
    for at, units, next_from in string.gmatch(entries, '(%d+):(%d+);?()') do
      if tonumber(at) > since then break end
      expired, kept_from = expired + units, next_from
    end
    used = used - expired
    if kept_from > #entries then dropped = dropped + 1 end
    -- The last dropped block becomes the head.
    if dropped > 0 then redis.call('LTRIM', key, dropped, -1) end
    if kept_from <= #entries then
      redis.call('LSET', key, 1, block_of(boundary_sum - expired, string.sub(entries, kept_from)))
    end
    redis.call('LSET', key, 0, used)
    return used
  end

  -- Index of the last block whose first entry is not after `at`.
  local function find_block(key, at)
    local low, high = 1, redis.call('LLEN', key) - 1
    while low < high do
      local middle = math.ceil((low + high) / 2)
      local first_at = string.match(redis.call('LINDEX', key, middle), '|(%d+)')
      if tonumber(first_at) <= at then low = middle else high = middle - 1 end
    end
    return low
  end

  local function refund(key, q, units, acquired_at, used)
    local index = find_block(key, acquired_at)
    local block = redis.call('LINDEX', key, index)
    local first, last, spent = string.find(block, '[|;]' .. text(acquired_at) .. ':(%d+)')
    if not first then return end
    spent = tonumber(spent)
    local refunded = math.min(units, spent)
    if refunded == used then
      redis.call('DEL', key)
      return
    end
    local sum, entries = parse(block)
    local before = string.sub(block, #tostring(sum) + 2, first - 1)
    local kept, after = '', string.sub(block, last + 2)
    if spent > refunded then kept = entry_of(acquired_at, spent - refunded) end
    entries = ''
    for _, part in ipairs({ before, kept, after }) do
      if part ~= '' then entries = entries .. (entries ~= '' and ';' or '') .. part end
    end
    redis.call('LSET', key, 0, used - refunded)
    redis.call('LSET', key, index, block_of(sum - refunded, entries))
    if entries == '' then redis.call('LREM', key, 1, block_of(0, '')) end
    expire(key, q, (last_entry(redis.call('LINDEX', key, -1))))
  end

  return {
    load = function(key, q)
      local head = redis.call('LINDEX', key, 0)
      if not head then return 0, 0 end
      local used, block = tonumber(head), redis.call('LINDEX', key, -1)
      if not used or not parse(block) then return corrupt() end
      local last_at, since = last_entry(block), now - q.period
      if last_at <= since then
        redis.call('DEL', key)
        return 0, 0
      end
      if last_at > now + q.period then
        -- The clock went back by more than a period: all units expire a period from now.
        create(key, q, now, used)
        return used, now
      end
      local first_at = string.match(redis.call('LINDEX', key, 1), '^%d+|(%d+):')
      if not first_at then return corrupt() end
      if tonumber(first_at) <= since then used = drop_expired(key, since, used) end
      return used, last_at
    end,

    check = function(key, q, used)
      if used + q.units <= q.limit then return true, 0 end
      return false, wait_for(key, q, used + q.units - q.limit)
    end,

    spend = function(q, used, last_at)
      -- If the clock went back, entries still stay in order.
      if q.units > 0 then last_at = math.max(now, last_at) end
      return used + q.units, last_at
    end,

    status = function(key, q, used, last_at)
      if used == 0 then return q.limit, 0, 0 end
      local remaining = math.max(0, q.limit - used)
      return remaining,
        wait_for(key, q, used - q.limit + remaining + 1),
        last_at + q.period - now
    end,

    save = function(key, q, used, last_at)
      if q.units > 0 then append(key, q, last_at, q.units, used - q.units) end
    end,

    adjust = function(key, q, delta, acquired_at, used, last_at)
      if delta > 0 then
        local units = math.min(delta, 2 * q.limit - used)
        if units > 0 then append(key, q, math.max(now, last_at), units, used) end
      elseif used > 0 then
        refund(key, q, -delta, acquired_at, used)
      end
    end,
  }
end
