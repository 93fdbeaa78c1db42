"""The loop of a worker: claim, run, renew, report health."""
