"""All faults, by what they happen to."""

from __future__ import annotations

from faults import (
    abuse,
    backlog,
    batches,
    cancelling,
    clocks,
    cluster,
    connections,
    enqueueing,
    file_batches,
    limits,
    readers,
    redis_server,
    tool_calls,
    upstream,
    watched,
    workers,
)
from faults.suite import Fault

CATALOGUE: dict[str, list[Fault]] = {
    "workers": workers.FAULTS,
    "clocks": clocks.FAULTS,
    "redis": redis_server.FAULTS,
    "cluster": [*cluster.FAULTS, *file_batches.IN_CLUSTER],
    "sentinel": [*watched.FAULTS, *file_batches.WATCHED],
    "connections": connections.FAULTS,
    "readers": readers.FAULTS,
    "enqueue": enqueueing.FAULTS,
    "upstream": upstream.FAULTS,
    "tools": tool_calls.FAULTS,
    "limits": limits.FAULTS,
    "cancel": cancelling.FAULTS,
    "batch": batches.FAULTS,
    "files": file_batches.FAULTS,
    "backlog": backlog.FAULTS,
    "abuse": abuse.FAULTS,
}
