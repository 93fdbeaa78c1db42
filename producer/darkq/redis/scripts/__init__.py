"""The Lua scripts: one file in `lua/`, one function here, one atomic step in Redis.

The head of a Lua file says what it takes and returns. The function of the same name here is the
only other place that knows the order and the number of keys and arguments.

    jobs       what producers, readers and gateways call
    workers    what workers call, with builders of commands for connections written to directly
    limits     what upstreams and API keys allow
    batches    batches, and batches over files
    transfer   waiting jobs moved to the other queue, or to another Redis

Every function raises what redis-py raises; those of scripts that must not be lost also raise
`NotReplicated`.
"""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.redis.scripts import batches, jobs, limits, transfer, workers
from darkq.redis.scripts.batches import (
    Acknowledged,
    LeaseReply,
    PageEnd,
    batch_acknowledge,
    batch_close,
    batch_renew_lease,
    filebatch_advance,
)
from darkq.redis.scripts.jobs import (
    BatchLines,
    CancelOutcome,
    EnqueueOutcome,
    NewJob,
    Receipt,
    cancel,
    enqueue,
    forget,
    publish,
    revive,
    waiter_keep,
    waiter_leave,
)
from darkq.redis.scripts.limits import (
    MOST_CALLED,
    Answer,
    CallReport,
    CallWord,
    Entered,
    Limits,
    Question,
    apikey_enter,
    limit_admit,
    limit_report,
)
from darkq.redis.scripts.script import Script
from darkq.redis.scripts.transfer import (
    ChangedRecord,
    MovingJob,
    change_priority,
    transfer_arrive,
    transfer_depart,
    transfer_forget,
    transfer_give_back,
)
from darkq.redis.scripts.workers import (
    Claim,
    Claimed,
    Renewal,
    Turn,
    append,
    append_accepted,
    append_call,
    claim,
    finish,
    finish_call,
    make_due,
    queue_set_back,
    release,
    release_call,
    renew,
    was_ours,
    worker_count,
    worker_pass_on,
)

__all__ = [
    "ALL", "MOST_CALLED", "Acknowledged", "Answer", "BatchLines", "CallReport", "CallWord",
    "CancelOutcome", "ChangedRecord", "Claim", "Claimed", "EnqueueOutcome", "Entered", "LeaseReply",
    "Limits", "MovingJob", "NewJob", "PageEnd", "Question", "Receipt", "Renewal", "Script", "Turn",
    "apikey_enter", "append", "append_accepted", "append_call", "batch_acknowledge", "batch_close",
    "batch_renew_lease", "cancel", "change_priority", "claim", "enqueue", "filebatch_advance",
    "finish", "finish_call", "forget", "limit_admit", "limit_report", "load", "make_due", "publish",
    "queue_set_back", "release", "release_call", "renew", "revive", "transfer_arrive",
    "transfer_depart", "transfer_forget", "transfer_give_back", "waiter_keep", "waiter_leave",
    "was_ours", "worker_count", "worker_pass_on",
]  # fmt: skip

ALL: dict[str, Script] = {
    value.name: value
    for module in (batches, jobs, limits, transfer, workers)
    for value in vars(module).values()
    if isinstance(value, Script)
}
"""Every script by its name, for those who load them or look at their digests."""


async def load(redis: Redis) -> None:
    """Load all scripts on a server, for callers that send commands by digest."""
    for script in ALL.values():
        await redis.execute_command("SCRIPT LOAD", script.source())
