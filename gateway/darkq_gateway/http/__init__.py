"""What every route shares: connections, callers, bodies, errors, event streams."""
