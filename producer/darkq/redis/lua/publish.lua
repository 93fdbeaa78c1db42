-- Publish a message on a channel.
--
-- KEYS  a key in the channel's slot
-- ARGV  channel, message
-- Returns 1.

redis.call(PUBLISH, ARGV[1], ARGV[2])
return 1
