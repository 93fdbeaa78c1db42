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

from darkq.errors import JobNotFound
from darkq.job import Priority

PRIORITIES: tuple[Priority, ...] = ("interactive", "bulk")
"""Most urgent first; the position is the queue's number in the scripts."""

MAX_PARTITIONS = 4096

_PUBLIC_ID = re.compile(r"(0|[1-9][0-9]{0,3})-([0-9a-f]{32})")
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
    def live(self) -> str:
        """The channel."""
        return f"darkq:live:{self.arq_id}"


def queue(partition: int, priority: Priority) -> str:
    """Name a partition's queue of a priority."""
    return f"darkq:{{{partition}}}:{priority}"


def wake(partition: int) -> str:
    """Name the channel that tells workers of new jobs and of cancelled ones."""
    return f"darkq:{{{partition}}}:wake"


def failures(partition: int) -> str:
    """Name the list of a partition's failed jobs: a sorted set, score = when, epoch ms."""
    return f"darkq:{{{partition}}}:failed"


def idempotency(partition: int, key: str) -> str:
    """Name what remembers the job of an idempotency key. The key itself is not kept."""
    return f"darkq:idempotency:{{{partition}}}{hashlib.sha256(key.encode()).hexdigest()}"


def partition_of(key: str, partitions: int) -> int:
    """Choose the partition of an idempotency key: the same for every producer."""
    digest = hashlib.sha256(b"partition:" + key.encode()).digest()
    return int.from_bytes(digest[:8], "big") % partitions


class LimitKeys(NamedTuple):
    """What all workers know of an upstream's calls; `limits.lua` says what each holds."""

    grants: str
    places: str
    waiting: str
    due: str
    breaker: str


def limit_keys(upstream: str) -> LimitKeys:
    """Name an upstream's keys; they share a slot, whatever partition its jobs are of."""
    return LimitKeys(*(f"darkq:limit:{{{upstream}}}:{part}" for part in LimitKeys._fields))


WORKERS = "darkq:{workers}"
"""Names the set of workers that may be alive."""


def worker(worker_id: str) -> str:
    """Name a worker's health record, which expires soon after its last sign of life."""
    return f"{WORKERS}:{worker_id}"
