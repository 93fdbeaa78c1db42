"""Logging, traces and metrics."""
