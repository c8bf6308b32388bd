-- One operation on one caller's account: the algorithm of account.py, atomic and on the store's
-- own clock. Counts are whole micro-units, times whole microseconds, both exact below 2^53.
--
-- KEYS  1  the account, a hash:
--            '.'         "count first last": live reservations, their earliest and latest end
--            <rule>      "used at held"
--            <peer>:<id> "end [rule amount]...": a live reservation and what it holds
--       2  the mark that this reservation was settled
-- ARGV  1 verb, 2 <peer>:<id>, 3 time to live in us, 4 life of the mark in ms,
--       then for each rule: name, rate in micro-units per us, burst, 1 if held, amount
-- Returns status, index of the refusing rule from 0 or -1, us until it admits or -1, end of the
--       reservation, now, then for each rule what is charged and held.
local CEILING = 8e15
local REFUSED, DONE, REPEATED, UNKNOWN = 0, 1, 2, 3

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local verb, id = ARGV[1], ARGV[2]

local rules, named, fields = {}, {}, { '.', id }
for i = 5, #ARGV, 5 do
  local rule = {
    name = ARGV[i], rate = tonumber(ARGV[i + 1]), burst = tonumber(ARGV[i + 2]),
    holds = ARGV[i + 3] == '1', amount = tonumber(ARGV[i + 4]),
  }
  rules[#rules + 1] = rule
  named[rule.name] = rule
  fields[#fields + 1] = rule.name
end

local function load(rule, text)
  if text then
    local used, at, held = string.match(text, '(%d+) (%d+) (%d+)')
    rule.used, rule.at, rule.held = tonumber(used), tonumber(at), tonumber(held)
  else
    rule.used, rule.at, rule.held = 0, now, 0
  end
  return rule
end

local stored = redis.call('HMGET', KEYS[1], unpack(fields))
local live = stored[2]
local count, first, last = 0, 0, 0
if stored[1] then
  local a, b, c = string.match(stored[1], '(%d+) (%d+) (%d+)')
  count, first, last = tonumber(a), tonumber(b), tonumber(c)
end
for i, rule in ipairs(rules) do load(rule, stored[i + 2]) end

-- A rule that a reservation holds, though the policy no longer has it: it is kept, not drained.
local former = {}
local function rule_of(name)
  local rule = named[name]
  if not rule then
    rule = load({ name = name }, redis.call('HGET', KEYS[1], name))
    named[name] = rule
    former[#former + 1] = rule
  end
  return rule
end

local function advance(rule, to)
  if rule.rate and to > rule.at then
    rule.used = math.max(0, rule.used - math.floor((to - rule.at) * rule.rate))
    rule.at = to
  end
end

local function each_hold(text, visit)
  for name, amount in string.gmatch(text, ' ([%w_]+) (%d+)') do
    visit(rule_of(name), tonumber(amount))
  end
end

local changed = false

-- Reservations whose end has passed are charged as of their end. `first` may be too early, never
-- too late, so the scan is rare: at most one for each time to live that passes.
if count > 0 and now >= first then
  local over, all = {}, redis.call('HGETALL', KEYS[1])
  count, first, last = 0, 0, 0
  for i = 1, #all, 2 do
    if string.find(all[i], ':', 1, true) then
      local ends = tonumber(string.match(all[i + 1], '^%d+'))
      if ends <= now then
        over[#over + 1] = { ends = ends, field = all[i], text = all[i + 1] }
      else
        count = count + 1
        if first == 0 or ends < first then first = ends end
        if ends > last then last = ends end
      end
    end
  end
  table.sort(over, function(a, b) return a.ends < b.ends end)
  for _, hold in ipairs(over) do
    redis.call('HDEL', KEYS[1], hold.field)
    if hold.field == id then live = false end
    each_hold(hold.text, function(rule, amount)
      advance(rule, hold.ends)
      rule.held = math.max(0, rule.held - amount)
      rule.used = math.min(rule.used + amount, CEILING)
    end)
  end
  changed = #over > 0
  if not changed then
    redis.call('HSET', KEYS[1], '.', string.format('%d %.0f %.0f', count, first, last))
  end
end

for _, rule in ipairs(rules) do
  if rule.at > now then changed = true end -- the clock was set back: the refill must go on
  advance(rule, now)
  rule.at = now
end

local status, refused, retry, ends = DONE, -1, 0, 0

if verb == 'reserve' then
  if live or redis.call('EXISTS', KEYS[2]) == 1 then
    status = REPEATED
    if live then ends = tonumber(string.match(live, '^%d+')) end
  else
    for i, rule in ipairs(rules) do
      local excess = rule.used + rule.held + rule.amount - rule.burst
      if excess > 0 then
        status = REFUSED
        if rule.amount > rule.burst then
          refused, retry = i - 1, -1
          break
        end
        local wait = math.ceil(excess / rule.rate)
        if wait > retry then refused, retry = i - 1, wait end
      end
    end
    if status == DONE then
      ends = now + tonumber(ARGV[3])
      local text = string.format('%.0f', ends)
      for _, rule in ipairs(rules) do
        if not rule.holds then
          rule.used = rule.used + rule.amount
        elseif rule.amount > 0 then
          rule.held = rule.held + rule.amount
          text = text .. string.format(' %s %.0f', rule.name, rule.amount)
        end
      end
      redis.call('HSET', KEYS[1], id, text)
      count = count + 1
      if count == 1 or ends < first then first = ends end
      if ends > last then last = ends end
      changed = true
    end
  end
elseif verb == 'settle' then
  if live then
    each_hold(live, function(rule, amount) rule.held = math.max(0, rule.held - amount) end)
    for _, rule in ipairs(rules) do
      if rule.holds then rule.used = math.min(rule.used + rule.amount, CEILING) end
    end
    redis.call('HDEL', KEYS[1], id)
    redis.call('SET', KEYS[2], '', 'PX', ARGV[4])
    count = count - 1
    changed = true
  else
    status = UNKNOWN
  end
elseif verb == 'renew' then
  if live then
    ends = now + tonumber(ARGV[3])
    redis.call('HSET', KEYS[1], id, (string.gsub(live, '^%d+', string.format('%.0f', ends))))
    if ends < first then first = ends end
    if ends > last then last = ends end
    changed = true
  else
    status = UNKNOWN
  end
end

local reply, drain = { status, refused, retry, ends, now }, 0
for _, rule in ipairs(rules) do
  local level = rule.used + rule.held
  reply[#reply + 1] = level
  drain = math.max(drain, level / rule.rate)
end

if changed then
  if count == 0 and drain == 0 then
    redis.call('DEL', KEYS[1])
  else
    if count == 0 then first, last = 0, now end
    local values = { '.', string.format('%d %.0f %.0f', count, first, last) }
    for _, list in ipairs({ rules, former }) do
      for _, rule in ipairs(list) do
        values[#values + 1] = rule.name
        values[#values + 1] = string.format('%.0f %.0f %.0f', rule.used, rule.at, rule.held)
      end
    end
    redis.call('HSET', KEYS[1], unpack(values))
    -- The account is forgotten when its reservations have ended and its buckets are full again.
    redis.call('PEXPIRE', KEYS[1], math.ceil((math.max(last, now) - now + drain) / 1000) + 1)
  end
end
return reply
