"""The only package that knows of servers, Sentinels and clusters."""
