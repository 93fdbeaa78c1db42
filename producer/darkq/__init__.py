"""Background text generation that you can reconnect to."""

from darkq.batches.answers import chat_completion
from darkq.batches.batch import Batch
from darkq.batches.feed import Columns
from darkq.batches.lines import ForAllLines, Line
from darkq.batches.results import Finished, LineEnded
from darkq.batches.status import BatchStatus
from darkq.batches.tail import LineEvent
from darkq.client import Client
from darkq.errors import (
    ApiKeyNotFound,
    AttemptSuperseded,
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
    FileNotFound,
    FileStoreUnavailable,
    FileTooLarge,
    IdempotencyConflict,
    InvalidJob,
    InvalidLine,
    JobCancelled,
    JobFailed,
    JobNotFound,
    JobUnfinished,
    NewerRecord,
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
from darkq.jobs.tail import EventBatch
from darkq.openai.body import Endpoint as OpenAIEndpoint
from darkq.openai.body import read_body as read_openai_body
from darkq.operate.fleet import Fleet
from darkq.operate.purge import Purge, Purged
from darkq.operate.queue import Backlog, QueueHandle
from darkq.operate.queue_state import Notice, QueueStatus
from darkq.operate.stats import Stats
from darkq.operate.upstreams import UpstreamStatus, WindowUse
from darkq.operate.workers import Drain, WorkerHandle, WorkerLeases
from darkq.protocol.job import MAX_PROMPT_BYTES, RESERVED_METADATA, Job, Message, checked_metadata
from darkq.protocol.options import Options
from darkq.protocol.record import Result
from darkq.serving.api_keys import ApiKey, ApiKeys, key_digest
from darkq.serving.file_batches import FileBatch, LineError
from darkq.serving.files import Content as FileContent
from darkq.serving.files import FileInfo, Files
from darkq.serving.files import Purpose as FilePurpose
from darkq.serving.request_dedup import Held
from darkq.settings.settings import Settings
from darkq.telemetry.export import exporting as exporting_traces
from darkq.telemetry.logging import LogLine
from darkq.telemetry.logging import described as described_error
from darkq.telemetry.logging import set_up as set_up_logs
from darkq.telemetry.metrics import MEASURES, Measure, Tally
from darkq.telemetry.tracing import TraceContext, tracer

__all__ = [
    "MAX_PROMPT_BYTES",
    "MEASURES",
    "RESERVED_METADATA",
    "AnyEvent",
    "ApiKey",
    "ApiKeyNotFound",
    "ApiKeys",
    "AttemptSuperseded",
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
    "EventBatch",
    "Failed",
    "FailedJob",
    "FileBatch",
    "FileContent",
    "FileInfo",
    "FileNotFound",
    "FilePurpose",
    "FileStoreUnavailable",
    "FileTooLarge",
    "Files",
    "Finished",
    "Fleet",
    "ForAllLines",
    "Held",
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
    "LineError",
    "LineEvent",
    "LogLine",
    "Measure",
    "Message",
    "NewerRecord",
    "NotReplicated",
    "Notice",
    "OpenAIEndpoint",
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
    "Tally",
    "TraceContext",
    "Unknown",
    "UpstreamStatus",
    "Usage",
    "WindowUse",
    "WorkerHandle",
    "WorkerLeases",
    "WorkerNotFound",
    "chat_completion",
    "checked_metadata",
    "described_error",
    "exporting_traces",
    "key_digest",
    "read_openai_body",
    "set_up_logs",
    "tracer",
]
