-- Say something on a channel, to whoever listens now.
--
-- KEYS  a key of the channel's slot
-- ARGV  channel, message
-- Returns 1.

redis.call(PUBLISH, ARGV[1], ARGV[2])
return 1
