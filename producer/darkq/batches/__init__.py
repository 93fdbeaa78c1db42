"""Many jobs as one batch."""
