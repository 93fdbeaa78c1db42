"""The checks of `darkq doctor`: they look for problems, and change nothing.

checks        results with a verdict; lists of checks, and how they are run
machine       the settings, and this machine
servers       each Redis server, and what it reports of itself
keeping       server checks: does it keep its data
connecting    server checks: can clients connect and get fast responses
replicas      server checks: replicas, and the nodes of a cluster
permissions   server checks: does its user have the permissions of darkq's roles
fleet         partitions, workers, queues, failed jobs, circuit breakers
probes        calls to upstreams
examine       runs all of them
report        prints results

A check is a function that returns a result. If the server refuses what it asks, the check is
skipped, and its result says how to check by hand.
"""
