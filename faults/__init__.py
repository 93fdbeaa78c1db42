"""The fault suite: kills, stops, cuts, slows and floods every part of darkq, and counts.

    suite            plays faults on a stage, run after run, and adds up
    stage            a Redis, an upstream, clients and real workers, ended at the end
    throughout       work that goes on during a failover, with restless readers
    forgetting       what is promised by a Redis that forgets
    check            what was promised to the readers of a job, and what was kept
    proxy            a TCP proxy that breaks connections on purpose
    table            the outcome
    workers redis_server connections readers upstream cancelling enqueueing clocks
    batches backlog cluster watched
                     the faults
    abuse            a gateway under attack, beside a `neighbour` that does no harm
    moving           how long a partition stands still while its slot is moved
    stock_arq        the same with arq alone, to compare

Everything random comes from one seed, which is printed: `make faults` plays all of it.
"""
