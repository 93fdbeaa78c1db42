"""Everything on one machine: an embedded Redis, and a local DarkAI with a small model."""
