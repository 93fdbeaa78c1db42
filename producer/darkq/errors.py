"""Everything darkq raises, as one tree. Errors carry data; the message is made from it.

DarkqError
├── InvalidJob              bad input to `enqueue`; nothing was stored     .field .reason
│   └── InvalidLine         so is a line of a batch                        .line .field .code
├── ConfigurationError      a setting is missing or wrong                  .setting .reason
├── RedisUnavailable        Redis did not answer within the retries        .reason
│   └── RedisFull           it has reached its maxmemory
├── QueueFull               as many jobs wait as may; try again later      .queue .limit .stored_ids
├── QueueClosed             the queue takes no new jobs for now            .queue .stored_ids
├── IdempotencyConflict     the key was used for another job               .key .job_id
├── JobNotFound             unknown id, or everything of it has expired    .job_id
├── CorruptRecord           what is stored of a job is no record           .job_id .tenant
│   └── NewerRecord         a newer darkq has written it                   .job_id .tenant
├── CursorGone              the log no longer holds what follows a cursor  .job_id .cursor
├── AttemptSuperseded       a new attempt began; earlier text is void      .attempt .cursor
├── JobFailed               the job ended without an answer                .job_id .code .message
├── JobCancelled            somebody cancelled the job                     .job_id
├── ApiKeyNotFound          no API key has this id                         .key_id
├── JobUnfinished           only a job that has ended can be deleted       .job_id
├── CannotRetry             only a failed job that is kept can be re-run   .job_id .reason
├── WorkerNotFound          no worker of this id is alive                  .worker
├── CannotMove              the queue cannot be moved as it stands         .queue .reason
├── BatchNotFound           unknown id, or the batch has expired           .batch_id
├── BatchTaken              another process runs the batch                 .batch_id .runner
├── BatchClosed             the batch takes no further lines               .batch_id .reason
├── BatchFull               nobody takes results, and no line has room     .batch_id .window
├── FileNotFound            no file of this tenant has this id             .file_id
├── FileTooLarge            it has more bytes than files may have          .limit_bytes
├── FileStoreUnavailable    the store of files does not answer             .reason
└── ResultTimeout           the wait ended, the job goes on                .job_id .timeout_s
"""

from __future__ import annotations

from collections.abc import Sequence


class DarkqError(Exception):
    """Base of all errors of darkq."""


class InvalidJob(DarkqError, ValueError):
    """Bad input, found before anything was stored. `field` names the argument."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidLine(InvalidJob):
    """A line of a batch's input that is no request. `line` counts from 1.

    `field` is the path of what is wrong, or "line"; `code` is OpenAI's word for the kind of it.
    `custom_id` is that of a line that can be read, and whose request alone is refused.
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
    """A setting is missing or wrong. `setting` is the environment variable to look at."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}")
        self.setting = setting
        self.reason = reason


class RedisUnavailable(DarkqError, ConnectionError):
    """Redis did not answer, retries included. Safe to try again: no call here is half done."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Redis does not answer ({reason}); check DARKQ_REDIS_URL")
        self.reason = reason


class RedisFull(RedisUnavailable):
    """Redis stores no new job: it has reached its `maxmemory`, or the 85 % that producers may fill.

    Try again later, or raise `maxmemory`. Nothing was changed, but that after `enqueue_many`
    `stored_ids` are the jobs that were stored before that, in order.
    """

    def __init__(self, stored_ids: Sequence[str] = ()) -> None:
        stored = f"{len(stored_ids):,} jobs were stored" if stored_ids else "nothing was stored"
        DarkqError.__init__(
            self, f"Redis is full (OOM): new jobs would take it to its maxmemory; {stored}"
        )
        self.reason = "maxmemory"
        self.stored_ids = tuple(stored_ids)


class NotReplicated(DarkqError):
    """Redis has stored it, but too few replicas have said so in time.

    It counts unless the server is lost before they have it. To call again stores a job twice,
    but for an idempotency key.
    """

    def __init__(self, reached: int, replicas: int) -> None:
        super().__init__(
            f"stored, but only {reached} of the {replicas} replicas that DARKQ_REDIS_WAIT_REPLICAS "
            "asks for have confirmed it in time"
        )
        self.reached = reached
        self.replicas = replicas


class QueueFull(DarkqError):
    """A queue holds as many jobs as it may, so this one was not stored.

    After `enqueue_many`, `stored_ids` are the jobs that were stored before that, in order.
    """

    def __init__(self, queue: str, limit: int, stored_ids: Sequence[str] = ()) -> None:
        stored = f"{len(stored_ids):,} jobs were stored" if stored_ids else "nothing was stored"
        super().__init__(
            f"{queue} is full: it holds {limit:,} jobs, the most that DARKQ_QUEUE_MAX_JOBS allows; "
            f"{stored}"
        )
        self.queue = queue
        self.limit = limit
        self.stored_ids = tuple(stored_ids)


class QueueClosed(DarkqError):
    """An operator has closed the queue to new jobs, so this one was not stored. Try again later.

    After `enqueue_many`, `stored_ids` are the jobs that were stored before that, in order.
    """

    def __init__(self, queue: str, stored_ids: Sequence[str] = ()) -> None:
        stored = f"{len(stored_ids):,} jobs were stored" if stored_ids else "nothing was stored"
        super().__init__(f"{queue} takes no new jobs for now: an operator has closed it; {stored}")
        self.queue = queue
        self.stored_ids = tuple(stored_ids)


class IdempotencyConflict(DarkqError):
    """The idempotency key belongs to a job with another content."""

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(f"idempotency key {key!r} already belongs to another job, {job_id}")
        self.key = key
        self.job_id = job_id


class JobNotFound(DarkqError, LookupError):
    """No such job, or everything of it has expired."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id}: unknown, or its result has expired")
        self.job_id = job_id


class CorruptRecord(DarkqError):
    """What is stored of a job is no record that this version can read.

    `tenant` is whose job it is, where the record tells that much.
    """

    def __init__(self, job_id: str, tenant: str | None = None) -> None:
        super().__init__(f"what is stored of job {job_id} cannot be read by this version")
        self.job_id = job_id
        self.tenant = tenant


class NewerRecord(CorruptRecord):
    """A newer version has written it, and says that this one would misread it: upgrade."""

    def __init__(self, job_id: str, tenant: str | None = None) -> None:
        DarkqError.__init__(self, f"a newer version of darkq has written job {job_id}: upgrade")
        self.job_id = job_id
        self.tenant = tenant


class CursorGone(DarkqError):
    """The event log no longer holds what follows `cursor`. The result may still be there."""

    def __init__(self, job_id: str, cursor: str) -> None:
        super().__init__(f"events of {job_id} after {cursor} are gone; read its result instead")
        self.job_id = job_id
        self.cursor = cursor


class AttemptSuperseded(DarkqError):
    """A new attempt began after text of an earlier one was given out: discard that text.

    Read on with `text(after=error.cursor)`: it starts with the new attempt's first word.
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
    """The job has not ended: cancel it first, and wait for its end."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} has not ended; cancel it first")
        self.job_id = job_id


class CannotRetry(DarkqError):
    """Only a job that has failed can be run again, as long as its prompt is kept."""

    def __init__(self, job_id: str, reason: str) -> None:
        super().__init__(f"job {job_id} cannot be run again: {reason}")
        self.job_id = job_id
        self.reason = reason


class WorkerNotFound(DarkqError, LookupError):
    """No worker of this id is alive."""

    def __init__(self, worker: str) -> None:
        super().__init__(f"no worker {worker} is alive")
        self.worker = worker


class CannotMove(DarkqError):
    """The queue cannot be moved as it stands. What was moved before that is moved."""

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
    """Another process feeds and collects the batch. `runner` is its `<host>:<pid>:<random>`."""

    def __init__(self, batch_id: str, runner: str) -> None:
        super().__init__(f"batch {batch_id} is run by another process: {runner}")
        self.batch_id = batch_id
        self.runner = runner


class BatchClosed(DarkqError):
    """The batch takes no further lines: its input is closed, or it was cancelled."""

    def __init__(self, batch_id: str, reason: str) -> None:
        super().__init__(f"batch {batch_id} takes no further lines: {reason}")
        self.batch_id = batch_id
        self.reason = reason


class BatchFull(DarkqError):
    """As many lines are outstanding as may be, and nobody takes results: that would wait for ever.

    Read `results()` in another task, or let `run(rows)` do both.
    """

    def __init__(self, batch_id: str, window: int) -> None:
        super().__init__(
            f"{window:,} lines of batch {batch_id} are outstanding, its whole window, and nobody "
            "takes results: read results() in another task, or use run(rows)"
        )
        self.batch_id = batch_id
        self.window = window


class ResultTimeout(DarkqError, TimeoutError):
    """The result was not there in time. The job goes on; ask again."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        super().__init__(f"job {job_id} was not finished within {timeout_s:g} s; it goes on")
        self.job_id = job_id
        self.timeout_s = timeout_s


class FileNotFound(DarkqError):
    """No file of this tenant has this id."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"file {file_id} is not known")
        self.file_id = file_id


class FileTooLarge(DarkqError):
    """A file has more bytes than files may have; nothing of it was kept."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"a file may have {limit_bytes:,} bytes at most")
        self.limit_bytes = limit_bytes


class FileStoreUnavailable(DarkqError):
    """The store of files does not answer, or refuses. `reason` is the store's word for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the store of files does not answer ({reason}); check DARKQ_FILES_URL")
        self.reason = reason
