"""`darkq queues`: what waits and runs, and who may take it or add to it."""
