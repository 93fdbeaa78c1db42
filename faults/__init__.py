"""The fault suite: kills, stops, cuts, slows and floods every part of darkq, and counts.

    suite            runs faults on a stage, and adds up their outcomes
    stage            a Redis, an upstream, clients and real workers
    throughout       work during a failover, with readers that disconnect and return
    forgetting       the promises that hold when Redis loses its latest writes
    check            the promises to the readers of a job
    proxy            a TCP proxy that breaks connections
    table            the output
    workers redis_server connections readers upstream cancelling enqueueing clocks
    batches backlog cluster watched
                     the faults
    abuse            a gateway under attack, beside a `neighbour` that does no harm
    moving           how long a partition is blocked while its slot is moved
    stock_arq        the same with arq alone, for comparison

All randomness comes from one seed, which is printed. `make faults` runs all of it.
"""
