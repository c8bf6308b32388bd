-- One operation on one account: the algorithm of account.py, atomic and on the store's own clock.
-- Amounts are whole parts, times whole microseconds, both exact below 2^53.
--
-- KEYS  1  the account, a hash:
--            '.'         "count first last [cursor next]": live reservations, their earliest and
--                        latest end; where a search for ended ones stands
--            <field>     "used at [held]"
--            <peer>:<id> "end[ field kind amount]...": a live reservation and what it holds; kind is
--                        '' held, '=' a slot, '+' pending, '-' a shadow rule that is left alone
--       2  the mark that this reservation was settled; only where there are marks
-- ARGV  1 verb, 2 <peer>:<id>, 3 time to live in us, 4 life of the mark in ms,
--       then for each rule: field, parts per us or 'day' or 'month', limit, mode, amount
-- Returns status, index of the refusing rule from 0 or -1, us until it admits or -1, end of the
--       reservation, now, bits of the shadow rules that would refuse, for each rule what is charged
--       and held, and after 'peek' and 'settle' for each rule what is held or beyond the bound.
local CEILING, DAY, SLOT_RETRY, SEARCH, EVER = 8e15, 86400e6, 1e6, 100, 1e15
local REFUSED, DONE, REPEATED, UNKNOWN = 0, 1, 2, 3
local call, floor, ceil, max, min = redis.call, math.floor, math.ceil, math.max, math.min
local match, find, format = string.match, string.find, string.format

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local key, mark, verb, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

-- Functions are made where they are needed, since making one takes time: a plain call needs none.
local window_end
local function know_calendar()
  local function first_of_month(day)
    local of_era = (day + 719468) % 146097
    local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
    local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
    local month = floor((5 * of_year + 2) / 153)
    return day - (of_year - floor((153 * month + 2) / 5))
  end
  window_end = function(period, at)
    local day = floor(at / DAY)
    if period == 'day' then return (day + 1) * DAY end
    return first_of_month(first_of_month(day) + 31) * DAY
  end
end

local rules, fields, n = {}, { '.', id }, 0
for i = 5, #ARGV, 5 do
  local mode, name, rate = ARGV[i + 3] + 0, ARGV[i], tonumber(ARGV[i + 1])
  n = n + 1
  fields[n + 2] = name
  rules[n] = {
    name = name, rate = rate, limit = ARGV[i + 2] + 0, shadow = mode >= 4, mode = mode % 4,
    amount = ARGV[i + 4] + 0, used = 0, at = now, held = 0,
  }
  if not rate then
    rules[n].period = ARGV[i + 1]
    if not window_end then know_calendar() end
  end
end

local stored = call('HMGET', key, unpack(fields))
local meta, live = stored[1], stored[2]
local count, first, last, cursor, upcoming = 0, 0, 0, '0', 0
if meta then
  local a, b, c, d, e = match(meta, '(%d+) (%d+) (%d+) ?(%d*) ?(%d*)')
  count, first, last = a + 0, b + 0, c + 0
  if d ~= '' then cursor, upcoming = d, e + 0 end
  for i = 1, n do
    local text = stored[i + 2]
    if text then
      local used, at, held = match(text, '(%d+) (%d+) ?(%d*)')
      local rule = rules[i]
      rule.used, rule.at = used + 0, at + 0
      if held ~= '' then rule.held = held + 0 end
    end
  end
end

local function advance(rule, to)
  if to <= rule.at then return end
  if rule.period then
    if to >= window_end(rule.period, rule.at) then rule.used = 0 end
  else
    rule.used = max(0, rule.used - floor((to - rule.at) * rule.rate))
  end
  rule.at = to
end

-- What reservations hold, visited rule by rule. A rule that the policy no longer has is kept in
-- `former`, and not drained.
local former, named = {}, nil
local function each_hold(text, visit)
  if not named then
    named = {}
    for i = 1, n do named[rules[i].name] = rules[i] end
  end
  for name, kind, amount in string.gmatch(text, ' ([%w_.]+) ([=+-]?)(%d*)') do
    if kind ~= '-' then
      local rule = named[name]
      if not rule then
        rule = { name = name, used = 0, at = now, held = 0 }
        local level = call('HGET', key, name)
        if level then
          local used, at, held = match(level, '(%d+) (%d+) ?(%d*)')
          rule.used, rule.at, rule.held = used + 0, at + 0, tonumber(held) or 0
        end
        named[name] = rule
        former[#former + 1] = rule
      end
      visit(rule, kind, amount + 0)
    end
  end
end

local changed = false

local function expire(ends, text)
  each_hold(text, function(rule, kind, amount)
    if rule.rate or rule.period then advance(rule, ends) end
    rule.held = max(0, rule.held - amount)
    if kind ~= '=' then rule.used = min(rule.used + amount, CEILING) end
  end)
  count = count - 1
  changed = true
end

-- Reservations whose end has passed are charged as of their end. `first` may be too early, never
-- too late. A search looks at a bounded number of fields and goes on with the next operation, so
-- however many reservations a dead gateway has left, no operation is slow.
if count > 0 and now >= first then
  local scan, over = call('HSCAN', key, cursor, 'COUNT', SEARCH), {}
  local found = scan[2]
  for i = 1, #found, 2 do
    if find(found[i], ':', 1, true) then
      local ends = match(found[i + 1], '^%d+') + 0
      if ends <= now then
        over[#over + 1] = { ends = ends, field = found[i], text = found[i + 1] }
      elseif upcoming == 0 or ends < upcoming then
        upcoming = ends
      end
    end
  end
  table.sort(over, function(a, b) return a.ends < b.ends end)
  for _, hold in ipairs(over) do
    if hold.field == id then live = false end
    if call('HDEL', key, hold.field) == 1 then expire(hold.ends, hold.text) end
  end
  cursor = scan[1]
  if cursor == '0' then first, upcoming = upcoming, 0 end
  if not changed then
    local rest = cursor == '0' and '' or format(' %s %.0f', cursor, upcoming)
    call('HSET', key, '.', format('%d %.0f %.0f', count, first, last) .. rest)
  end
end
local live_ends = live and match(live, '^%d+') + 0
if live and live_ends <= now then
  call('HDEL', key, id)
  expire(live_ends, live)
  live = false
end

for i = 1, n do
  local rule = rules[i]
  if rule.at > now then changed = true end -- the clock was set back: the refill must go on
  advance(rule, now)
  rule.at = now
end

local status, refused, retry, ends, shadows, details = DONE, -1, 0, 0, 0, nil
local values = {}

if verb == 'reserve' or verb == 'prepare' or verb == 'charge' then
  if live or (mark and call('EXISTS', mark) == 1) then
    status = REPEATED
    if live then ends = live_ends end
  else
    for i = 1, n do
      local rule = rules[i]
      local excess = rule.used + rule.held + rule.amount - rule.limit
      if excess > 0 then
        if rule.shadow then
          shadows = shadows + 2 ^ (i - 1)
          rule.skipped = true
        else
          local wait
          if rule.amount > rule.limit then wait = -1
          elseif rule.mode == 2 then wait = SLOT_RETRY
          elseif rule.period then wait = window_end(rule.period, now) - now
          else wait = min(ceil(excess / rule.rate), EVER) end
          if refused < 0 or (retry >= 0 and (wait < 0 or wait > retry)) then
            refused, retry = i - 1, wait
          end
        end
      end
    end
    if refused >= 0 then
      status = REFUSED
    else
      changed = true
      local text = ''
      for i = 1, n do
        local rule = rules[i]
        if rule.skipped then
          text = text .. ' ' .. rule.name .. ' -'
        elseif verb == 'charge' or (rule.mode == 0 and verb == 'reserve') then
          rule.used = min(rule.used + rule.amount, CEILING)
        elseif rule.amount > 0 then
          rule.held = rule.held + rule.amount
          local kind = rule.mode == 2 and '=' or rule.mode == 0 and '+' or ''
          text = text .. format(' %s %s%.0f', rule.name, kind, rule.amount)
        end
      end
      if verb ~= 'charge' then
        ends = now + ARGV[3]
        values[1], values[2] = id, format('%.0f', ends) .. text
        count = count + 1
      end
    end
  end
elseif verb == 'peek' then
  details = {}
  for i = 1, n do details[i] = rules[i].held end
elseif not live then
  status = UNKNOWN
elseif verb == 'renew' then
  changed = true
  ends = now + ARGV[3]
  values[1], values[2] = id, (string.gsub(live, '^%d+', format('%.0f', ends)))
else
  changed = true
  local held, kept = {}, format('%.0f', live_ends)
  if find(live, ' ', 1, true) then
    each_hold(live, function(rule, kind, amount)
      if verb == 'commit' and kind ~= '+' then
        kept = format('%s %s %s%.0f', kept, rule.name, kind, amount)
        return
      end
      rule.held = max(0, rule.held - amount)
      if kind == '' then
        held[rule.name] = amount
      elseif kind == '+' and verb ~= 'release' then
        rule.used = min(rule.used + amount, CEILING)
      end
    end)
  end
  if verb == 'commit' then
    for name in string.gmatch(live, ' ([%w_.]+) %-') do kept = kept .. ' ' .. name .. ' -' end
    values[1], values[2] = id, kept
  else
    call('HDEL', key, id)
    count = count - 1
  end
  if verb == 'settle' then
    details = {}
    for i = 1, n do
      local rule = rules[i]
      details[i] = 0
      if rule.mode == 1 and not find(live, ' ' .. rule.name .. ' -', 1, true) then
        rule.used = min(rule.used + rule.amount, CEILING)
        details[i] = max(0, rule.amount - (held[rule.name] or 0))
      end
    end
    if mark then call('SET', mark, '', 'PX', ARGV[4]) end
  end
end

if values[1] and verb ~= 'commit' then
  if count == 1 or ends < first then first = ends end
  if cursor ~= '0' and (upcoming == 0 or ends < upcoming) then upcoming = ends end
  if ends > last then last = ends end
end
if count == 0 then first, last, cursor, upcoming = 0, now, '0', 0 end

local reply, full = { status, refused, retry, ends, now, shadows }, max(last, now)
local drained, m = full, #values
for i = 1, n do
  local rule = rules[i]
  local level = rule.used + rule.held
  reply[i + 6] = level
  if level > 0 then
    if rule.period then drained = max(drained, window_end(rule.period, full))
    elseif rule.rate > 0 then drained = max(drained, full + min(level / rule.rate, EVER)) end
  end
  if changed then
    values[m + 1] = rule.name
    values[m + 2] = format('%.0f %.0f', rule.used, now)
    if rule.held > 0 then values[m + 2] = values[m + 2] .. format(' %.0f', rule.held) end
    m = m + 2
  end
end
if details then
  for i = 1, n do reply[i + n + 6] = details[i] end
end

if changed then
  for _, rule in ipairs(former) do
    values[m + 1], values[m + 2] = rule.name, format('%.0f %.0f %.0f', rule.used, rule.at, rule.held)
    m = m + 2
  end
  values[m + 1], values[m + 2] = '.', format('%d %.0f %.0f', count, first, last)
  if cursor ~= '0' then values[m + 2] = values[m + 2] .. format(' %s %.0f', cursor, upcoming) end
  call('HSET', key, unpack(values))
  -- The account is forgotten when its reservations have ended and its levels are empty again. Those
  -- of rules that are not asked for now, another model's for one, are left in peace.
  local life = ceil((drained - now) / 1000) + 1
  if call('HLEN', key) > 1 + n + count then life = max(life, call('PTTL', key))
  elseif count == 0 and drained == now then life = 0 end
  call('PEXPIRE', key, life)
end
return reply
