"""Plain data: what Redis and the wires hold. No I/O."""
