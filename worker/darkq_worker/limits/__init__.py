"""The limits and circuit breakers of upstreams, shared by all workers."""
