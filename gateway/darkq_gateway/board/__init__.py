"""The board: one page at `/` that shows what runs, live.

static/     the page: HTML, CSS and JavaScript modules, as they stand
page        serves them, under a policy that allows nothing else
overview    its stream of snapshots: one reading per second for all pages together
pace        how fast running jobs give their chunks
"""
