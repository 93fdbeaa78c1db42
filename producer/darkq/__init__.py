"""Background text generation with streams that clients can resume.

The names for operators and servers are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkq.batches.batch import Batch
from darkq.batches.feed import Columns
from darkq.batches.lines import ForAllLines, Line
from darkq.batches.results import Finished, LineEnded
from darkq.batches.status import BatchStatus
from darkq.batches.tail import LineEvent
from darkq.client import Client
from darkq.errors import (
    ApiKeyNotFound,
    BatchClosed,
    BatchFull,
    BatchNotFound,
    BatchTaken,
    CannotMove,
    CannotRetry,
    ConfigurationError,
    CorruptRecord,
    CursorGone,
    DarkqError,
    IdempotencyConflict,
    InvalidJob,
    InvalidLine,
    JobCancelled,
    JobFailed,
    JobNotFound,
    JobUnfinished,
    NotReplicated,
    QueueClosed,
    QueueFull,
    RedisFull,
    RedisUnavailable,
    ResultTimeout,
    WorkerNotFound,
)
from darkq.event import (
    AnyEvent,
    Cancelled,
    Chunk,
    Completed,
    Cursor,
    Event,
    Failed,
    Queued,
    Retrying,
    Started,
    Unknown,
    Usage,
)
from darkq.jobs.failed import FailedJob
from darkq.jobs.handle import JobHandle
from darkq.jobs.status import Status
from darkq.protocol.job import Job
from darkq.protocol.options import Options
from darkq.protocol.prompt import Message
from darkq.protocol.result import Result
from darkq.settings.settings import Settings

if TYPE_CHECKING:
    from darkq.operate.purge import Purge, Purged
    from darkq.operate.queue import Backlog, QueueHandle
    from darkq.operate.queue_state import QueueStatus
    from darkq.operate.stats import Stats
    from darkq.operate.upstreams import UpstreamStatus
    from darkq.operate.workers import Drain, WorkerHandle, WorkerLeases
    from darkq.serving.api_keys import ApiKey

_AT_FIRST_USE = {
    "ApiKey": "darkq.serving.api_keys",
    "Backlog": "darkq.operate.queue",
    "Drain": "darkq.operate.workers",
    "Purge": "darkq.operate.purge",
    "Purged": "darkq.operate.purge",
    "QueueHandle": "darkq.operate.queue",
    "QueueStatus": "darkq.operate.queue_state",
    "Stats": "darkq.operate.stats",
    "UpstreamStatus": "darkq.operate.upstreams",
    "WorkerHandle": "darkq.operate.workers",
    "WorkerLeases": "darkq.operate.workers",
}


def __getattr__(name: str) -> object:
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_AT_FIRST_USE[name]), name)


__all__ = [
    "AnyEvent",
    "ApiKey",
    "ApiKeyNotFound",
    "Backlog",
    "Batch",
    "BatchClosed",
    "BatchFull",
    "BatchNotFound",
    "BatchStatus",
    "BatchTaken",
    "Cancelled",
    "CannotMove",
    "CannotRetry",
    "Chunk",
    "Client",
    "Columns",
    "Completed",
    "ConfigurationError",
    "CorruptRecord",
    "Cursor",
    "CursorGone",
    "DarkqError",
    "Drain",
    "Event",
    "Failed",
    "FailedJob",
    "Finished",
    "ForAllLines",
    "IdempotencyConflict",
    "InvalidJob",
    "InvalidLine",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "JobUnfinished",
    "Line",
    "LineEnded",
    "LineEvent",
    "Message",
    "NotReplicated",
    "Options",
    "Purge",
    "Purged",
    "QueueClosed",
    "QueueFull",
    "QueueHandle",
    "QueueStatus",
    "Queued",
    "RedisFull",
    "RedisUnavailable",
    "Result",
    "ResultTimeout",
    "Retrying",
    "Settings",
    "Started",
    "Stats",
    "Status",
    "Unknown",
    "UpstreamStatus",
    "Usage",
    "WorkerHandle",
    "WorkerLeases",
    "WorkerNotFound",
]
