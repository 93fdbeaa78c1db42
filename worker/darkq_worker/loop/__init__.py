"""What a worker does all the time: claim, run, renew, report."""
