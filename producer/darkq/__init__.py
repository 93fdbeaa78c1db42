"""Background text generation that you can reconnect to."""

from darkq.client import Client
from darkq.errors import (
    AttemptSuperseded,
    CannotRetry,
    ConfigurationError,
    CursorGone,
    DarkqError,
    IdempotencyConflict,
    InvalidJob,
    JobCancelled,
    JobFailed,
    JobNotFound,
    QueueFull,
    RedisFull,
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
from darkq.failures import FailedJob
from darkq.handle import JobHandle
from darkq.job import Job, Message
from darkq.result import Result
from darkq.settings import Settings
from darkq.status import Status

__all__ = [
    "AttemptSuperseded",
    "Cancelled",
    "CannotRetry",
    "Chunk",
    "Client",
    "Completed",
    "ConfigurationError",
    "CursorGone",
    "DarkqError",
    "Event",
    "Failed",
    "FailedJob",
    "IdempotencyConflict",
    "InvalidJob",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "Message",
    "QueueFull",
    "Queued",
    "RedisFull",
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
