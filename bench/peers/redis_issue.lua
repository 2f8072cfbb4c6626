-- One unit to one user, in Redis: all or nothing, as a script runs alone.
--
-- KEYS  campaign  hash: left, policy, paused, opens_at, closes_at
--       users     hash: user -> serial
--       returned  list: serials that came back
--       queue     list: events
-- ARGV  user, campaign id, "queue" to push the event
--
-- Returns the serial; below 0: the one that the user has already; 0: sold out,
-- paused or not open.
local has = redis.call('HGET', KEYS[2], ARGV[1])
if has then
	return -tonumber(has)
end

local c = redis.call('HMGET', KEYS[1], 'left', 'policy', 'paused', 'opens_at', 'closes_at')
local now = redis.call('TIME')
local second = tonumber(now[1])
if c[3] == '1' or c[4] and second < tonumber(c[4]) or c[5] and second >= tonumber(c[5]) then
	return 0
end

-- what is left is the serial, so that it needs no counter of its own
local serial = tonumber(c[1])
if serial > 0 then
	redis.call('HINCRBY', KEYS[1], 'left', -1)
else
	serial = tonumber(redis.call('LPOP', KEYS[3]) or 0)
	if serial == 0 then
		return 0
	end
end
redis.call('HSET', KEYS[2], ARGV[1], serial)
if ARGV[3] == 'queue' then
	redis.call('RPUSH', KEYS[4], '{"campaign_id": ' .. ARGV[2] .. ', "user_id": "' .. ARGV[1] ..
		'", "serial": ' .. serial .. ', "policy": ' .. c[2] .. ', "issued_at": ' .. now[1] .. '.' .. now[2] .. '}')
end
return serial
