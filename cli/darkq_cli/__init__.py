"""The `darkq` command."""
