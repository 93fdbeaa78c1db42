"""The processes that the command starts and stops."""
