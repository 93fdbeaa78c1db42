"""darkq beside its baselines, in the same run, on the same machine.

Absolute figures drift from machine to machine and from hour to hour; ratios within one run do
so much less. So every question runs both sides here, a few times in turns, and ends with a
ratio.

    core 0   the process under test: a worker, or what stands in its place
    core 1   the upstream, Redis, producers and readers

Processes of their own: Redis, the upstream (`upstream`), darkq's worker, stock arq's (`naive`),
a reader without any queue (`drain`), a bare publisher (`hop`). This process enqueues and reads.
What the upstream answers is said by the prompt (`answers`), so one upstream serves them all.
"""
