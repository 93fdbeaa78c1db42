"""One module a noun: jobs, keys, workers, upstreams."""
