"""The event logs of all attempts of the process, in group commits."""
