"""The names of everything darkq keeps in Redis, and the only room that knows them.

A job belongs to a partition *p*. Its public id, `<p>-<32 hex digits>`, is what people see;
its arq id, `{<p>}<32 hex digits>`, stands in every key: the braces are a Redis Cluster hash
tag, so all keys of a partition share one slot and every script stays within it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import NamedTuple

from darkq.errors import BatchNotFound, JobNotFound
from darkq.protocol.job import Priority

PRIORITIES: tuple[Priority, ...] = ("interactive", "bulk")
"""Most urgent first; the position is the queue's number in the scripts."""

MAX_PARTITIONS = 4096

_PUBLIC_ID = re.compile(r"(0|[1-9][0-9]{0,3})-([0-9a-f]{32})")
_BATCH_ID = re.compile(r"batch-(0|[1-9][0-9]{0,3})-([0-9a-f]{32})")
_TAG = re.compile(r"\{[^}]+\}")
_ARQ_ID = re.compile(r"\{(0|[1-9][0-9]{0,3})\}([0-9a-f]{32})")


class JobKeys(NamedTuple):
    """A job's id and the names of its keys."""

    partition: int
    random: str

    @classmethod
    def new(cls, partition: int) -> JobKeys:
        """Make an unguessable id (128 random bits) in a partition."""
        return cls(partition, secrets.token_hex(16))

    @classmethod
    def parse(cls, public_id: str) -> JobKeys:
        """Read a public id. Raises `JobNotFound` for a string that can be none."""
        match = _PUBLIC_ID.fullmatch(public_id)
        if match is None:
            raise JobNotFound(public_id)
        return cls(int(match[1]), match[2])

    @classmethod
    def from_arq_id(cls, arq_id: str) -> JobKeys:
        """Read the id that stands in keys. Raises `ValueError`."""
        match = _ARQ_ID.fullmatch(arq_id)
        if match is None:
            raise ValueError(f"not an arq id of darkq: {arq_id!r}")
        return cls(int(match[1]), match[2])

    @property
    def public_id(self) -> str:
        return f"{self.partition}-{self.random}"

    @classmethod
    def of_member(cls, member: bytes) -> JobKeys | None:
        """Read a member of a list of jobs; None for what darkq did not put there."""
        try:
            return cls.from_arq_id(member.decode())
        except ValueError:
            return None

    @property
    def arq_id(self) -> str:
        return f"{{{self.partition}}}{self.random}"

    @property
    def job(self) -> str:
        return f"arq:job:{self.arq_id}"

    @property
    def result(self) -> str:
        return f"arq:result:{self.arq_id}"

    @property
    def in_progress(self) -> str:
        """Holds the owner token while a worker holds the lease."""
        return f"arq:in-progress:{self.arq_id}"

    @property
    def retry(self) -> str:
        """Holds the number of the latest attempt."""
        return f"arq:retry:{self.arq_id}"

    @property
    def state(self) -> str:
        """A hash: tries burnt, leases lost, whether it is held, whether to cancel."""
        return f"darkq:state:{self.arq_id}"

    @property
    def events(self) -> str:
        """The event log."""
        return f"darkq:events:{self.arq_id}"

    @property
    def failed(self) -> str:
        """The record of a job that has failed, kept so that it can be run again."""
        return f"darkq:failed:{self.arq_id}"

    @property
    def moved(self) -> str:
        """The note that the job came from another Redis."""
        return f"darkq:moved:{self.arq_id}"

    @property
    def live(self) -> str:
        """The channel."""
        return f"darkq:live:{self.arq_id}"


class BatchKeys(NamedTuple):
    """A batch's id and the names of its keys; its jobs are of the same partition."""

    partition: int
    random: str

    @classmethod
    def new(cls, partition: int) -> BatchKeys:
        """Make an unguessable id (128 random bits) in a partition."""
        return cls(partition, secrets.token_hex(16))

    @classmethod
    def parse(cls, public_id: str) -> BatchKeys:
        """Read a public id. Raises `BatchNotFound` for a string that can be none."""
        match = _BATCH_ID.fullmatch(public_id)
        if match is None:
            raise BatchNotFound(public_id)
        return cls(int(match[1]), match[2])

    @classmethod
    def of_member(cls, member: bytes) -> BatchKeys | None:
        """Read a member of the list of batches; None for what darkq did not put there."""
        found = JobKeys.of_member(member)
        return None if found is None else cls(*found)

    @property
    def public_id(self) -> str:
        return f"batch-{self.partition}-{self.random}"

    @property
    def tagged_id(self) -> str:
        """The id that stands in keys."""
        return f"{{{self.partition}}}{self.random}"

    @property
    def batch(self) -> str:
        """A hash: what it was made with, and its counts."""
        return f"darkq:batch:{self.tagged_id}"

    @property
    def lines(self) -> str:
        """The lines whose end is not acknowledged; score 0, or the number of the end."""
        return f"{self.batch}:lines"

    @property
    def ends(self) -> str:
        """The log of the jobs' ends, numbered from 1 without a hole."""
        return f"{self.batch}:ends"

    @property
    def acknowledged(self) -> str:
        """One bit for each line: its end has been taken over."""
        return f"{self.batch}:acknowledged"

    @property
    def runner(self) -> str:
        """Holds the token of the process that feeds and collects, for as long as its lease."""
        return f"{self.batch}:runner"

    @property
    def live(self) -> str:
        """The channel: something has changed."""
        return f"darkq:live:batch:{self.tagged_id}"

    @property
    def files(self) -> str:
        """The record of a batch whose input and output are files."""
        return f"{self.batch}:files"

    @property
    def parts(self) -> str:
        """The parts of its output that count: a sorted set, score = number of the first end."""
        return f"{self.batch}:parts"

    @property
    def outputs(self) -> str:
        """The files that runners have begun to put together: a set of their ids."""
        return f"{self.batch}:outputs"

    def job(self, line: int) -> JobKeys:
        """Derive the id of a line's job: the same each time that the line is added."""
        digest = hashlib.sha256(f"{self.tagged_id} {line}".encode()).hexdigest()
        return JobKeys(self.partition, digest[:32])


def batches(partition: int) -> str:
    """Name the list of a partition's batches: a sorted set, score = when each expires, epoch ms."""
    return f"darkq:{{{partition}}}:batches"


FILE_BATCHES_OPEN = "darkq:{files}:open"
"""Names the list of the batches over files that have not ended: a sorted set, score = since."""

FILE_BATCHES_ENDED = "darkq:{files}:ended"
"""Names the list of those whose leftovers are to be deleted: a sorted set, score = when, in s."""


def file_batches_of(tenant: str | None) -> str:
    """Name the list of a tenant's batches over files."""
    return f"darkq:{{files}}:of:{tenant_digest(tenant)}"


def tenant_digest(tenant: str | None) -> str:
    """Return the name of a tenant in keys and paths, which contain nothing that a caller chose."""
    return "open" if tenant is None else hashlib.sha256(tenant.encode()).hexdigest()[:32]


def queue(partition: int, priority: Priority) -> str:
    """Name a partition's queue of a priority."""
    return f"darkq:{{{partition}}}:{priority}"


def control(partition: int) -> str:
    """Name what operators have said of a partition's queues: a hash.

    Fields are `paused:<priority>` and `closed:<priority>`; without any there is no key.
    """
    return f"darkq:{{{partition}}}:control"


def moving(partition: int, priority: Priority) -> str:
    """Name a queue's jobs that are on their way to another Redis: a sorted set like it."""
    return f"darkq:{{{partition}}}:moving:{priority}"


def wake(partition: int) -> str:
    """Name the channel that tells all workers of cancelled jobs and of queues that go on."""
    return f"darkq:{{{partition}}}:wake"


def wake_one(partition: int, worker_id: str) -> str:
    """Name the channel that tells one worker of jobs."""
    return f"{wake(partition)}:{worker_id}"


def idle(partition: int, priority: Priority) -> str:
    """Name the workers that have room for a queue: a sorted set, score = minus the free slots."""
    return f"darkq:{{{partition}}}:idle:{priority}"


def failures(partition: int) -> str:
    """Name the list of a partition's failed jobs: a sorted set, score = when, epoch ms."""
    return f"darkq:{{{partition}}}:failed"


def idempotency(partition: int, key: str, tenant: str | None = None) -> str:
    """Name what remembers the job of a tenant's idempotency key. The key itself is not kept."""
    digest = hashlib.sha256(_scoped(key, tenant)).hexdigest()
    return f"darkq:idempotency:{{{partition}}}{digest}"


def partition_of(key: str, partitions: int, tenant: str | None = None) -> int:
    """Choose the partition of an idempotency key: the same for every producer."""
    digest = hashlib.sha256(b"partition:" + _scoped(key, tenant)).digest()
    return int.from_bytes(digest[:8], "big") % partitions


def tenant_jobs(partition: int, tenant: str | None) -> str:
    """Name the list of a tenant's latest jobs: a sorted set, score = when, epoch ms."""
    name = f"darkq:{{{partition}}}:jobs"
    return name if tenant is None else f"{name}:{hashlib.sha256(tenant.encode()).hexdigest()}"


def _scoped(key: str, tenant: str | None) -> bytes:
    """Tenants do not meet in a key: no text in UTF-8 has the byte between the two."""
    return key.encode() if tenant is None else b"\xff%b\xff%b" % (tenant.encode(), key.encode())


class LimitKeys(NamedTuple):
    """What all workers know of an upstream's calls; `limits.lua` says what each holds."""

    grants: str
    places: str
    waiting: str
    due: str
    breaker: str
    late: str
    heard: str


def limit_keys(upstream: str) -> LimitKeys:
    """Name an upstream's keys; they share a slot, whatever partition its jobs are of."""
    return LimitKeys(*(f"darkq:limit:{{{upstream}}}:{part}" for part in LimitKeys._fields))


def never_there(key: str) -> str:
    """Name what shares a key's slot and never exists. Raises `ValueError` for a key without tag."""
    return _beside(key, "never")


def written(key: str) -> str:
    """Name what shares a key's slot, and says nothing: `darkq.replicas` writes it.

    Raises `ValueError` for a key without tag.
    """
    return _beside(key, "written")


def _beside(key: str, name: str) -> str:
    found = _TAG.search(key)
    if found is None:
        raise ValueError(f"no hash tag in {key!r}")
    return f"darkq:{found[0]}:{name}"


API_KEYS = "darkq:keys"
"""Names the set of the digests of all API keys."""


def api_key(digest: str) -> str:
    """Name the record of an API key."""
    return f"darkq:key:{digest}"


def api_key_use(key_id: str) -> tuple[str, str]:
    """Name what an API key has used of its rate, and its calls in progress."""
    return f"darkq:use:{{{key_id}}}:rate", f"darkq:use:{{{key_id}}}:calls"


def reattachment(digest: str) -> str:
    """Name the note of which job a request made last. The request itself is not kept."""
    return f"darkq:attach:{digest}"


def waiters(job: JobKeys) -> str:
    """Name the callers of a gateway that wait for a job: a sorted set, score = end of the lease."""
    return f"darkq:waiters:{job.arq_id}"


def request_seed(digest: str) -> str:
    """Name the note of the seed from which the ids of what a request made follow."""
    return f"darkq:request:{digest}"


WORKERS = "darkq:{workers}"
"""Names the set of workers that may be alive."""


def worker(worker_id: str) -> str:
    """Name a worker's health record, which expires soon after its last sign of life."""
    return f"{WORKERS}:{worker_id}"


def served(worker_id: str) -> str:
    """Name what a worker announces: the upstreams that it serves."""
    return f"{worker(worker_id)}:upstreams"


def worker_orders(worker_id: str) -> str:
    """Name what an operator has told a worker."""
    return f"{worker(worker_id)}:orders"


STATS = "darkq:{stats}"
"""Names what all workers have counted: a hash."""


def worker_stats(worker_id: str) -> str:
    """Name what a worker tells of itself beside it: a hash."""
    return f"{STATS}:{worker_id}"
