"""darkq beside its baselines, in the same run, on the same machine.

Absolute figures vary between machines and hours; ratios within one run vary much less. So each
benchmark runs both sides here, alternately and a few times, and reports a ratio.

    core 0   the process under test: a worker, or what replaces it
    core 1   the upstream, Redis, producers and readers

Separate processes: Redis, the upstream (`upstream`), darkq's worker, stock arq's (`naive`), a
reader without a queue (`drain`), a bare publisher (`hop`). This process enqueues and reads. The
prompt defines the answer of the upstream (`answers`), so one upstream serves all benchmarks.
"""
