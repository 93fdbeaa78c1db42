"""Access to Redis: connections, Sentinel, Cluster, pub/sub, scripts. No other package has it."""
