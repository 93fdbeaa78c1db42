"""What the gateway and the worker share: API keys, files, repeated requests."""
