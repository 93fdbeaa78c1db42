"""Batches over files. They continue elsewhere if their worker dies."""
