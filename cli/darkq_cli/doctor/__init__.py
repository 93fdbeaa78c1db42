"""`darkq doctor`: looks for what is wrong, and says how to mend it. It changes nothing.

findings      a verdict, what was found, what to do; how checks are named and run
machine       the settings and this machine
servers       each Redis server, and what it tells of itself
keeping       checks of a server: whether it keeps what it is given
connecting    whether it can be reached, quickly and by all
together      replicas, and a cluster's nodes
permissions   what its user may do; `roles` holds what darkq's roles need
fleet         partitions, workers, queues, failures, upstreams as the workers see them
probes        upstreams, asked now
command       runs them all, and prints what they find

A check is a function that returns an answer. What it may not ask makes it `skipped`, with what to
look at by hand.
"""
