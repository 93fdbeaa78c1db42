"""Background text generation that you can reconnect to."""

from darkq.client import Client
from darkq.errors import (
    AttemptSuperseded,
    ConfigurationError,
    CursorGone,
    DarkqError,
    IdempotencyConflict,
    InvalidJob,
    JobCancelled,
    JobFailed,
    JobNotFound,
    RedisUnavailable,
    ResultTimeout,
)
from darkq.event import (
    Cancelled,
    Chunk,
    Completed,
    Event,
    Failed,
    Queued,
    Retrying,
    Started,
    Unknown,
    Usage,
)
from darkq.handle import JobHandle
from darkq.job import Job, Message
from darkq.result import Result
from darkq.settings import Settings
from darkq.status import Status

__all__ = [
    "AttemptSuperseded",
    "Cancelled",
    "Chunk",
    "Client",
    "Completed",
    "ConfigurationError",
    "CursorGone",
    "DarkqError",
    "Event",
    "Failed",
    "IdempotencyConflict",
    "InvalidJob",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "Message",
    "Queued",
    "RedisUnavailable",
    "Result",
    "ResultTimeout",
    "Retrying",
    "Settings",
    "Started",
    "Status",
    "Unknown",
    "Usage",
]
