"""Attempts: a claimed job from its start to its settlement."""
