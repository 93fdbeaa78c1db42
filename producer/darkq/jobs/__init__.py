"""One job: enqueued, read, followed, cancelled."""
