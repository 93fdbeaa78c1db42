"""What all routes share: connections, authentication, bodies, errors, event streams."""
