"""Whether an upstream may be called now."""
