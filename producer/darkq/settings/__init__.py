"""What a process is told by its environment and files."""
