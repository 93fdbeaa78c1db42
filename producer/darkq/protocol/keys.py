"""The names of all keys and channels of darkq in Redis. No other module spells one.

A job belongs to a partition *p*. Users see its public id, `<p>-<32 hex digits>`. Keys contain its
arq id, `{<p>}<32 hex digits>`: the braces are a Redis Cluster hash tag, so all keys of a partition
share one slot, and every script stays within that slot.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import NamedTuple, Self, cast

from darkq.errors import BatchNotFound, JobNotFound
from darkq.protocol.job import Priority

PRIORITIES: tuple[Priority, ...] = ("interactive", "bulk")
"""Most urgent first; the position is the queue's number in the scripts."""

MAX_PARTITIONS = 4096

_PUBLIC_ID = re.compile(r"(0|[1-9][0-9]{0,3})-([0-9a-f]{32})")
_BATCH_ID = re.compile(r"batch-(0|[1-9][0-9]{0,3})-([0-9a-f]{32})")
_TAG = re.compile(r"\{[^}]+\}")
_ARQ_ID = re.compile(r"\{(0|[1-9][0-9]{0,3})\}([0-9a-f]{32})")


def _key(before: str, after: str = "") -> str:
    """Return a property of `JobKeys` or `BatchKeys`: the id in keys, between two texts."""
    return cast(str, property(lambda keys: f"{before}{keys.arq_id}{after}"))


class _Id(NamedTuple):
    partition: int
    random: str

    @classmethod
    def new(cls, partition: int) -> Self:
        """Make an unguessable id (128 random bits) in a partition."""
        return cls(partition, secrets.token_hex(16))

    @property
    def arq_id(self) -> str:
        """The id that keys contain."""
        return f"{{{self.partition}}}{self.random}"


class JobKeys(_Id):
    """A job's id and the names of its keys."""

    __slots__ = ()

    @classmethod
    def parse(cls, public_id: str) -> Self:
        """Read a public id. Raises `JobNotFound` for a string that is no job id."""
        match = _PUBLIC_ID.fullmatch(public_id)
        if match is None:
            raise JobNotFound(public_id)
        return cls(int(match[1]), match[2])

    @classmethod
    def from_arq_id(cls, arq_id: str) -> Self:
        """Read the id that keys contain. Raises `ValueError`."""
        match = _ARQ_ID.fullmatch(arq_id)
        if match is None:
            raise ValueError(f"not an arq id of darkq: {arq_id!r}")
        return cls(int(match[1]), match[2])

    @classmethod
    def from_member(cls, member: bytes) -> Self | None:
        """Read a member of a list of jobs; None for a member that darkq did not write."""
        try:
            return cls.from_arq_id(member.decode())
        except ValueError:
            return None

    @property
    def public_id(self) -> str:
        return f"{self.partition}-{self.random}"

    job = _key("arq:job:")
    result = _key("arq:result:")
    in_progress = _key("arq:in-progress:")
    """Holds the owner token while a worker holds the lease."""
    retry = _key("arq:retry:")
    """Holds the number of the latest attempt."""
    state = _key("darkq:state:")
    """A hash: tries used, leases lost, whether a worker holds it, whether to cancel."""
    events = _key("darkq:events:")
    """The event log."""
    failed = _key("darkq:failed:")
    """The record of a failed job, kept so that it can be retried."""
    moved = _key("darkq:moved:")
    """A marker: the job came from another Redis."""
    live = _key("darkq:live:")
    """The channel of its events."""
    waiters = _key("darkq:waiters:")
    """The gateway callers that wait for it: a sorted set, score = end of the lease."""


class BatchKeys(_Id):
    """A batch's id and the names of its keys; its jobs share its partition."""

    __slots__ = ()

    @classmethod
    def parse(cls, public_id: str) -> Self:
        """Read a public id. Raises `BatchNotFound` for a string that is no batch id."""
        match = _BATCH_ID.fullmatch(public_id)
        if match is None:
            raise BatchNotFound(public_id)
        return cls(int(match[1]), match[2])

    @classmethod
    def from_member(cls, member: bytes) -> Self | None:
        """Read a member of the list of batches; None for a member that darkq did not write."""
        found = JobKeys.from_member(member)
        return None if found is None else cls(*found)

    @property
    def public_id(self) -> str:
        return f"batch-{self.partition}-{self.random}"

    batch = _key("darkq:batch:")
    """A hash: its arguments and its counts."""
    lines = _key("darkq:batch:", ":lines")
    """The unacknowledged lines: a sorted set, score = number of the end, 0 before it."""
    ends = _key("darkq:batch:", ":ends")
    """The log of the jobs' ends, numbered from 1 without gaps."""
    acknowledged = _key("darkq:batch:", ":acknowledged")
    """One bit for each line: its end is acknowledged."""
    runner = _key("darkq:batch:", ":runner")
    """Holds the token of the runner while it has the lease."""
    live = _key("darkq:live:batch:")
    """The channel: the batch has changed."""
    files = _key("darkq:batch:", ":files")
    """The record of a batch whose input and output are files."""
    parts = _key("darkq:batch:", ":parts")
    """The valid parts of its output: a sorted set, score = number of the first end."""
    outputs = _key("darkq:batch:", ":outputs")
    """The output files that runners have begun to assemble: a sorted set of their ids."""

    def job(self, line: int) -> JobKeys:
        """Derive the id of a line's job: the same each time that the line is added."""
        digest = hashlib.sha256(f"{self.arq_id} {line}".encode()).hexdigest()
        return JobKeys(self.partition, digest[:32])


class PartitionKeys(NamedTuple):
    """The names of the keys and channels that the jobs of a partition share."""

    partition: int

    def queue(self, priority: Priority) -> str:
        """A sorted set of job ids; score = not before, epoch ms, or the end of the lease."""
        return f"darkq:{{{self.partition}}}:{priority}"

    @property
    def queues(self) -> list[str]:
        """The queues, most urgent first."""
        return [self.queue(priority) for priority in PRIORITIES]

    def moving(self, priority: Priority) -> str:
        """The jobs of a queue that are being moved to another Redis: a sorted set like it."""
        return f"darkq:{{{self.partition}}}:moving:{priority}"

    def idle(self, priority: Priority) -> str:
        """The workers with room for a queue: a sorted set, score = minus the free slots."""
        return f"darkq:{{{self.partition}}}:idle:{priority}"

    @property
    def control(self) -> str:
        """Whether queues are paused or closed: a hash.

        Fields are `paused:<priority>` and `closed:<priority>`; without any there is no key.
        """
        return f"darkq:{{{self.partition}}}:control"

    @property
    def wake(self) -> str:
        """The channel of all workers: cancelled jobs, and queues that are resumed."""
        return f"darkq:{{{self.partition}}}:wake"

    def wake_worker(self, worker_id: str) -> str:
        """The channel of one worker: jobs are due."""
        return f"{self.wake}:{worker_id}"

    @property
    def batches(self) -> str:
        """The batches: a sorted set, score = when each expires, epoch ms."""
        return f"darkq:{{{self.partition}}}:batches"

    @property
    def failed(self) -> str:
        """The failed jobs: a sorted set, score = when, epoch ms."""
        return f"darkq:{{{self.partition}}}:failed"

    def tenant_jobs(self, tenant: str | None) -> str:
        """The latest jobs of a tenant: a sorted set, score = when, epoch ms."""
        name = f"darkq:{{{self.partition}}}:jobs"
        return name if tenant is None else f"{name}:{hashlib.sha256(tenant.encode()).hexdigest()}"

    def idempotency(self, key: str, tenant: str | None = None) -> str:
        """The job of a tenant's idempotency key. The key itself is not stored."""
        digest = hashlib.sha256(_scoped(key, tenant)).hexdigest()
        return f"darkq:idempotency:{{{self.partition}}}{digest}"


def choose_partition(key: str, partitions: int, tenant: str | None = None) -> int:
    """Choose the partition of an idempotency key: the same for every producer."""
    digest = hashlib.sha256(b"partition:" + _scoped(key, tenant)).digest()
    return int.from_bytes(digest[:8], "big") % partitions


def _scoped(key: str, tenant: str | None) -> bytes:
    """Separate tenants by the byte 0xff, which occurs in no UTF-8 text: pairs cannot collide."""
    return key.encode() if tenant is None else b"\xff%b\xff%b" % (tenant.encode(), key.encode())


FILE_BATCHES_OPEN = "darkq:{files}:open"
"""The batches over files that have not ended: a sorted set, score = since when."""

FILE_BATCHES_ENDED = "darkq:{files}:ended"
"""The ended ones whose leftovers are to be deleted: a sorted set, score = when, in s."""


def tenant_file_batches(tenant: str | None) -> str:
    """Name the list of a tenant's batches over files."""
    return f"darkq:{{files}}:of:{tenant_digest(tenant)}"


def tenant_digest(tenant: str | None) -> str:
    """Return the name of a tenant in keys and paths, which contain nothing that a caller chose."""
    return "open" if tenant is None else hashlib.sha256(tenant.encode()).hexdigest()[:32]


class LimitKeys(NamedTuple):
    """The state of an upstream's calls, shared by all workers; `limits.lua` describes each key."""

    grants: str
    places: str
    waiting: str
    due: str
    breaker: str
    late: str
    heard: str

    @classmethod
    def of_upstream(cls, upstream: str) -> LimitKeys:
        """Name an upstream's keys; they share a slot, whatever partition its jobs are of."""
        return cls(*(f"darkq:limit:{{{upstream}}}:{part}" for part in cls._fields))


def absent_key(key: str) -> str:
    """Name a key in the slot of `key` that never exists. Raises `ValueError` without a hash tag."""
    return _key_beside(key, "never")


def replication_key(key: str) -> str:
    """Name a key in the slot of `key` that is written only so that `WAIT` has a write to wait for.

    Raises `ValueError` without a hash tag.
    """
    return _key_beside(key, "written")


def _key_beside(key: str, name: str) -> str:
    found = _TAG.search(key)
    if found is None:
        raise ValueError(f"no hash tag in {key!r}")
    return f"darkq:{found[0]}:{name}"


API_KEYS = "darkq:keys"
"""The set of the digests of all API keys."""


def api_key(digest: str) -> str:
    """Name the record of an API key."""
    return f"darkq:key:{digest}"


def api_key_use(key_id: str) -> tuple[str, str]:
    """Name the used rate of an API key, and its calls in progress."""
    return f"darkq:use:{{{key_id}}}:rate", f"darkq:use:{{{key_id}}}:calls"


TICKETS = "darkq:tickets"
"""The secret that signs tickets, unless `DARKQ_TICKET_SECRETS` is set. Readers cannot read it."""


def reattachment(digest: str) -> str:
    """Name the id of the latest job of a request. The request itself is not stored."""
    return f"darkq:attach:{digest}"


def request_seed(digest: str) -> str:
    """Name the seed from which the ids of all that a request creates are derived."""
    return f"darkq:request:{digest}"


def chat_job(digest: str) -> str:
    """Name the id of the latest job of a chat of the AI SDK."""
    return f"darkq:chat:{digest}"


WORKERS = "darkq:{workers}"
"""The set of workers that may be alive."""

STATS = "darkq:{stats}"
"""The counters of all workers: a hash."""


class WorkerKeys(NamedTuple):
    """A worker's id and the names of its keys."""

    worker_id: str

    @property
    def health(self) -> str:
        """The health record, which expires soon after the last heartbeat."""
        return f"{WORKERS}:{self.worker_id}"

    @property
    def upstreams(self) -> str:
        """The upstreams that the worker serves."""
        return f"{self.health}:upstreams"

    @property
    def drain_request(self) -> str:
        """The operator's request that the worker claims no more jobs."""
        return f"{self.health}:orders"

    @property
    def stats(self) -> str:
        """The number of the worker's latest report to `STATS`, and its unwritten text: a hash."""
        return f"{STATS}:{self.worker_id}"
