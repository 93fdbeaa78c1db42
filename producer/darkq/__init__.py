"""Background text generation that you can reconnect to."""

from darkq.api_keys import ApiKey, ApiKeys, key_digest
from darkq.batch import Batch
from darkq.batch_answers import chat_completion
from darkq.batch_ends import Finished, LineEnded
from darkq.batch_lines import ForAllLines, Line
from darkq.batch_rows import Columns
from darkq.batch_status import BatchStatus
from darkq.batch_tail import LineEvent
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
from darkq.event_log import EventBatch
from darkq.failures import FailedJob
from darkq.file_batch import FileBatch, LineError
from darkq.files import Content as FileContent
from darkq.files import FileInfo, Files
from darkq.files import Purpose as FilePurpose
from darkq.fleet import Fleet
from darkq.handle import JobHandle
from darkq.job import MAX_PROMPT_BYTES, RESERVED_METADATA, Job, Message, checked_metadata
from darkq.leases import WorkerLeases
from darkq.logs import LogLine
from darkq.logs import described as described_error
from darkq.logs import set_up as set_up_logs
from darkq.measures import MEASURES, Measure, Tally
from darkq.openai_body import Endpoint as OpenAIEndpoint
from darkq.openai_body import read_body as read_openai_body
from darkq.options import Options
from darkq.purge import Purge, Purged
from darkq.queue_control import Notice
from darkq.queue_handle import Backlog, QueueHandle
from darkq.queues import QueueStatus
from darkq.reattachment import Held
from darkq.result import Result
from darkq.settings import Settings
from darkq.stats import Stats
from darkq.status import Status
from darkq.tracing import TraceContext, tracer
from darkq.tracing_export import exporting as exporting_traces
from darkq.upstreams import UpstreamStatus, WindowUse
from darkq.worker_handle import Drain, WorkerHandle

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
