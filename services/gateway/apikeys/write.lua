-- One change of one key, atomic and on the store's own clock. A version grows with the time, so that
-- a store that has lost changes cannot give the number of one of them to another.
--
-- KEYS  1  the key: "<version> <JSON>"
--       2  the latest changes: ids by revision, of which the last ARGV[5] are kept
--       3  all keys: ids by the time that they were made
-- ARGV  1 id, 2 the version that is to be changed (0: a new key; -1: put back what was lost),
--       3 the least version to give, or the one to put back, 4 JSON, 5 how many changes are kept,
--       6 Unix seconds at which the key was made
-- Returns 1 or 0 (it has another version by now), and the version that it has.
local current, version = redis.call('GET', KEYS[1]), 0
if current then version = tonumber(string.match(current, '^(%d+) ')) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expected, new = tonumber(ARGV[2]), tonumber(ARGV[3])
if expected < 0 then
  if version >= new then return { 0, version } end
else
  if version ~= expected then return { 0, version } end
  new = math.max(version + 1, now, new)
end
redis.call('SET', KEYS[1], string.format('%.0f ', new) .. ARGV[4])
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local revision = now
if last[2] then revision = math.max(tonumber(last[2]) + 1, now) end
redis.call('ZADD', KEYS[2], string.format('%.0f', revision), ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[5]))
redis.call('ZADD', KEYS[3], 'NX', ARGV[6], ARGV[1])
return { 1, new }
