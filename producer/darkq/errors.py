"""All errors of darkq, as one tree. Errors have attributes; the message is built from them.

DarkqError
├── InvalidJob              bad input to `enqueue`; nothing was stored     .field .reason
│   └── InvalidLine         a line of a batch file is invalid              .line .field .code
├── ConfigurationError      a setting is missing or wrong                  .setting .reason
├── RedisUnavailable        Redis did not answer within the retries        .reason .code
│   └── RedisFull           Redis has reached its maxmemory                .stored_ids
├── NotReplicated           stored, but on too few replicas                .reached .replicas
├── QueueFull               the queue has reached its limit                .queue .limit .stored_ids
├── QueueClosed             an operator has closed the queue               .queue .stored_ids
├── IdempotencyConflict     the key was used for another job               .key .job_id
├── JobNotFound             unknown id, or the job has expired             .job_id
├── CorruptRecord           the stored record of a job is invalid          .job_id .tenant
│   └── NewerRecord         a newer version of darkq has written it        .job_id .tenant
├── CursorGone              the log no longer has the next event           .job_id .cursor
├── AttemptSuperseded       a new attempt began; earlier text is void      .attempt .cursor
├── JobFailed               the job ended without an answer                .job_id .code .message
├── JobCancelled            the job was cancelled                          .job_id
├── ApiKeyNotFound          no API key has this id                         .key_id
├── JobUnfinished           only a finished job can be deleted             .job_id
├── CannotRetry             only a failed job that is kept can be retried  .job_id .reason
├── WorkerNotFound          no worker with this id is alive                .worker
├── CannotMove              the queue cannot be moved now                  .queue .reason
├── BatchNotFound           unknown id, or the batch has expired           .batch_id
├── BatchTaken              another process runs the batch                 .batch_id .runner
├── BatchClosed             the batch accepts no further lines             .batch_id .reason
├── BatchFull               the window is full and no results are taken    .batch_id .window
├── FileNotFound            the tenant has no file with this id            .file_id
├── FileTooLarge            a file exceeds the size limit                  .limit_bytes
├── FileStoreUnavailable    the file store does not answer                 .reason
└── ResultTimeout           the wait timed out, the job continues          .job_id .timeout_s
"""

from __future__ import annotations

from collections.abc import Sequence


class DarkqError(Exception):
    """Base of all errors of darkq."""


class InvalidJob(DarkqError, ValueError):
    """Invalid input; nothing was stored. `field` is the name of the argument."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidLine(InvalidJob):
    """An invalid line of a batch's input. `line` counts from 1.

    `field` is the path of the invalid value, or "line"; `code` is OpenAI's error code. `custom_id`
    is set if the line can be read and only its request is invalid.
    """

    def __init__(
        self,
        line: int,
        field: str,
        reason: str,
        code: str = "invalid_request",
        *,
        custom_id: str | None = None,
    ) -> None:
        what = reason if field == "line" else f"{field}: {reason}"
        DarkqError.__init__(self, f"line {line}: {what}")
        self.line = line
        self.field = field
        self.reason = reason
        self.code = code
        self.custom_id = custom_id


class ConfigurationError(DarkqError):
    """A setting is missing or invalid. `setting` is the name of the environment variable."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}")
        self.setting = setting
        self.reason = reason


class RedisUnavailable(DarkqError, ConnectionError):
    """Redis did not answer within the retries. Safe to repeat: no call is partly executed.

    `reason` is a short phrase; `code` is for programs, such as `connection_refused`,
    `wrong_password` or `misconf`, and "" for an unexpected error. Causes for which waiting cannot
    help, as a wrong password, are raised without a wait.
    """

    def __init__(self, reason: str, message: str | None = None, *, code: str = "") -> None:
        super().__init__(message or f"Redis does not answer ({reason}); check DARKQ_REDIS_URL")
        self.reason = reason
        self.code = code


class RedisFull(RedisUnavailable):
    """Redis stores no new job: it has reached `maxmemory`, or the 85 % of it open to producers.

    Try again later, or raise `maxmemory`. After `enqueue_many`, `stored_ids` are the jobs that were
    stored before the error, in order.
    """

    def __init__(self, stored_ids: Sequence[str] = ()) -> None:
        stored = f"{len(stored_ids):,} jobs were stored" if stored_ids else "nothing was stored"
        DarkqError.__init__(
            self, f"Redis is full (OOM): new jobs would exceed its maxmemory; {stored}"
        )
        self.reason = "maxmemory"
        self.code = "oom"
        self.stored_ids = tuple(stored_ids)


class NotReplicated(DarkqError):
    """Redis has stored the write, but too few replicas have confirmed it in time.

    The write is lost only if the server fails before it is replicated. Repeating the call stores a
    job twice, unless it has an idempotency key.
    """

    def __init__(self, reached: int, replicas: int) -> None:
        super().__init__(
            f"stored, but only {reached} of the {replicas} replicas that DARKQ_REDIS_WAIT_REPLICAS "
            "requires have confirmed it in time"
        )
        self.reached = reached
        self.replicas = replicas


class QueueFull(DarkqError):
    """The queue has reached its limit, so the job was not stored. Try again later.

    After `enqueue_many`, `stored_ids` are the jobs that were stored before the error, in order.
    """

    def __init__(self, queue: str, limit: int, stored_ids: Sequence[str] = ()) -> None:
        stored = f"{len(stored_ids):,} jobs were stored" if stored_ids else "nothing was stored"
        super().__init__(
            f"{_name_queue(queue)} is full: it has {limit:,} jobs, the limit set by "
            "DARKQ_QUEUE_MAX_JOBS; "
            f"{stored}"
        )
        self.queue = queue
        self.limit = limit
        self.stored_ids = tuple(stored_ids)


class QueueClosed(DarkqError):
    """An operator has closed the queue, so the job was not stored. Try again later.

    After `enqueue_many`, `stored_ids` are the jobs that were stored before the error, in order.
    """

    def __init__(self, queue: str, stored_ids: Sequence[str] = ()) -> None:
        stored = f"{len(stored_ids):,} jobs were stored" if stored_ids else "nothing was stored"
        name = _name_queue(queue)
        super().__init__(f"{name} accepts no new jobs: an operator has closed it; {stored}")
        self.queue = queue
        self.stored_ids = tuple(stored_ids)


def _name_queue(queue: str) -> str:
    """Return the name of a queue for people. `queue` is a priority, or the queue's key in Redis."""
    return f"the {queue.rpartition(':')[2]} queue"


class IdempotencyConflict(DarkqError):
    """The idempotency key belongs to a job with different content."""

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(f"idempotency key {key!r} already belongs to another job, {job_id}")
        self.key = key
        self.job_id = job_id


class JobNotFound(DarkqError, LookupError):
    """No such job, or it has expired."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id}: unknown, or its result has expired")
        self.job_id = job_id


class CorruptRecord(DarkqError):
    """This version cannot read the stored record of a job.

    `tenant` is the owner of the job, if the record contains that.
    """

    def __init__(self, job_id: str, tenant: str | None = None) -> None:
        super().__init__(f"this version cannot read the stored record of job {job_id}")
        self.job_id = job_id
        self.tenant = tenant


class NewerRecord(CorruptRecord):
    """A newer version has written the record, in a format that requires an upgrade here."""

    def __init__(self, job_id: str, tenant: str | None = None) -> None:
        DarkqError.__init__(self, f"job {job_id} was written by a newer version of darkq: upgrade")
        self.job_id = job_id
        self.tenant = tenant


class CursorGone(DarkqError):
    """The event log no longer has the events after `cursor`. The result may still exist."""

    def __init__(self, job_id: str, cursor: str) -> None:
        super().__init__(f"events of {job_id} after {cursor} are gone; read its result instead")
        self.job_id = job_id
        self.cursor = cursor


class AttemptSuperseded(DarkqError):
    """A new attempt began after text of an earlier one was returned: discard that text.

    Continue with `text(after=error.cursor)`, which starts with the text of the new attempt.
    """

    def __init__(self, attempt: int, cursor: str) -> None:
        super().__init__(f"attempt {attempt} started over: discard the text received so far")
        self.attempt = attempt
        self.cursor = cursor


class JobFailed(DarkqError):
    """The job ended without an answer. `code` is for programs, `message` for people."""

    def __init__(self, job_id: str, code: str, message: str) -> None:
        super().__init__(f"job {job_id} failed: {code}: {message}")
        self.job_id = job_id
        self.code = code
        self.message = message


class JobCancelled(DarkqError):
    """The job was cancelled."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} was cancelled")
        self.job_id = job_id


class JobUnfinished(DarkqError):
    """The job is not finished: cancel it first, and wait for its end."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} has not ended; cancel it first")
        self.job_id = job_id


class CannotRetry(DarkqError):
    """Only a failed job can be retried, while its prompt is kept."""

    def __init__(self, job_id: str, reason: str) -> None:
        super().__init__(f"job {job_id} cannot be retried: {reason}")
        self.job_id = job_id
        self.reason = reason


class WorkerNotFound(DarkqError, LookupError):
    """No worker with this id is alive."""

    def __init__(self, worker: str) -> None:
        super().__init__(f"no worker {worker} is alive")
        self.worker = worker


class CannotMove(DarkqError):
    """The queue cannot be moved now. Jobs moved before the error stay moved."""

    def __init__(self, queue: str, reason: str) -> None:
        super().__init__(f"the queue {queue} cannot be moved: {reason}")
        self.queue = queue
        self.reason = reason


class ApiKeyNotFound(DarkqError, LookupError):
    """No such API key, or it has expired or was revoked."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"no API key {key_id}")
        self.key_id = key_id


class BatchNotFound(DarkqError, LookupError):
    """No such batch, or it has expired."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"no batch {batch_id}: unknown, or it has expired")
        self.batch_id = batch_id


class BatchTaken(DarkqError):
    """Another process runs the batch. `runner` is its `<host>:<pid>:<random>`."""

    def __init__(self, batch_id: str, runner: str) -> None:
        super().__init__(f"batch {batch_id} is run by another process: {runner}")
        self.batch_id = batch_id
        self.runner = runner


class BatchClosed(DarkqError):
    """The batch accepts no further lines: its input is closed, or it was cancelled."""

    def __init__(self, batch_id: str, reason: str) -> None:
        super().__init__(f"batch {batch_id} accepts no further lines: {reason}")
        self.batch_id = batch_id
        self.reason = reason


class BatchFull(DarkqError):
    """The window is full and no task takes results, so the call would wait indefinitely.

    Read `results()` in another task, or use `run(rows)`, which does both.
    """

    def __init__(self, batch_id: str, window: int) -> None:
        super().__init__(
            f"{window:,} lines of batch {batch_id} are outstanding, its whole window, and no task "
            "takes results: read results() in another task, or use run(rows)"
        )
        self.batch_id = batch_id
        self.window = window


class ResultTimeout(DarkqError, TimeoutError):
    """The job was not finished in time. It continues; call `result` again."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        super().__init__(f"job {job_id} was not finished within {timeout_s:g} s; it continues")
        self.job_id = job_id
        self.timeout_s = timeout_s


class FileNotFound(DarkqError):
    """The tenant has no file with this id."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"no file {file_id}")
        self.file_id = file_id


class FileTooLarge(DarkqError):
    """A file exceeds the size limit; nothing of it was stored."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"a file may have at most {limit_bytes:,} bytes")
        self.limit_bytes = limit_bytes


class FileStoreUnavailable(DarkqError):
    """The file store does not answer, or denies access. `reason` is its error."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the file store does not answer ({reason}); check DARKQ_FILES_URL")
        self.reason = reason
