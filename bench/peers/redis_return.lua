-- Gives a unit back: what a rollback is elsewhere.  KEYS and ARGV as in
-- redis_issue.lua.  Returns the serial, or 0 if the user has none.
local serial = redis.call('HGET', KEYS[2], ARGV[1])
if not serial then
	return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('RPUSH', KEYS[3], serial)
redis.call('RPUSH', KEYS[4], '{"campaign_id": ' .. ARGV[2] .. ', "user_id": "' .. ARGV[1] .. '", "returned": ' .. serial .. '}')
return tonumber(serial)
