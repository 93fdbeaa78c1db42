"""Batches over files, which outlive the worker that runs them."""
