"""Group commit of the event logs of all attempts of a worker."""
