"""What operators do and see: queues, workers, upstreams, counts."""
