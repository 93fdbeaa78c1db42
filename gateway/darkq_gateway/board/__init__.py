"""The board: a page at `/` that shows jobs, batches, workers and upstreams, live.

static/     the page: HTML, CSS and JavaScript modules, served unchanged
page        serves them, with a Content-Security-Policy that allows nothing else
overview    the stream of snapshots: Redis is read once per second for all open pages together
snapshot    what the page shows, and to which tenants
job_index   a tenant's latest jobs in memory, for filters, search and paging, and the query
rows        the rows of the lists
prompts     the prompt of an open job
pace        the rate of chunks of running jobs
"""
