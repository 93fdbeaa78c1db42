"""Scripts of a worker: claims, leases, events, the end of an attempt.

`append`, `finish` and `release` also have builders of their commands, for a connection that is
written to directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from redis.asyncio import Redis

from darkq.protocol.job import Priority
from darkq.protocol.keys import PRIORITIES, STATS, JobKeys, PartitionKeys, WorkerKeys
from darkq.redis.scripts.script import Argument, Command, Script, is_cluster, milliseconds

_claim = Script("claim", includes=["wake"])
_renew = Script("renew")
_append = Script("append")
_finish = Script("finish", includes=["drop", "end_line"])
_release = Script("release", includes=["wake"])
_make_due = Script("make_due", includes=["wake"])
_queue_set_back = Script("queue_set_back")
_worker_pass_on = Script("worker_pass_on", includes=["wake"])
_worker_count = Script("worker_count")

Entries: TypeAlias = Sequence[tuple[str, bytes]]
"""Events, each with its id in the event log before it."""

_CLAIM_FIELDS = 9
_CANCELLED, _LEASE_LOST = 1, 2


class Claim(NamedTuple):
    """A job that a worker holds, as one attempt.

    `record` is empty when it has expired. `queued_at_ms` is the score of the job in its queue:
    the time since when it was due, by the clock of Redis. `waited_s` is from then to the claim.
    `lease_lost`: another worker held the job until now, and neither ended nor renewed it.
    """

    keys: JobKeys
    priority_number: int
    attempt: int
    token: str
    tries_burnt: int
    leases_lost: int
    cancelled: bool
    record: bytes
    queued_at_ms: float = 0.0
    waited_s: float = 0.0
    lease_lost: bool = False

    @property
    def queue(self) -> str:
        return PartitionKeys(self.keys.partition).queue(PRIORITIES[self.priority_number])

    @property
    def is_bulk(self) -> bool:
        return PRIORITIES[self.priority_number] == "bulk"

    def __repr__(self) -> str:
        return f"Claim({self.keys.public_id!r}, attempt={self.attempt})"


class Claimed(NamedTuple):
    """The reply to a claim. One that came `too_late` has changed nothing, and has no claims.

    `now_ms` is the server's clock. `due_s` is the time until the next job is due, None if none is.
    """

    now_ms: int
    too_late: bool
    due_s: float | None
    claims: list[Claim]


class Renewal(NamedTuple):
    """The claims among those renewed that are lost, and those whose jobs are to be cancelled."""

    lost: list[Claim]
    cancel: list[Claim]


class Turn(NamedTuple):
    """A job that was put off and may go now; `place` is its score in its queue."""

    arq_id: bytes
    queue_number: int
    place: bytes | float


async def claim(
    redis: Redis,
    partition: int,
    *,
    worker_id: str,
    lease_s: float,
    job_ttl_s: float,
    slots: int,
    slots_of: Mapping[Priority, int],
    respite_s: float,
    max_lost_leases: int,
    suspects: int,
    counts_until_ms: int,
) -> Claimed:
    """Take due jobs of a partition, `slots` at most, and at most `slots_of` of each queue.

    The call counts until `counts_until_ms`, by the clock of Redis. See `claim.lua`.
    """
    args: list[Argument] = [worker_id, milliseconds(lease_s), milliseconds(job_ttl_s)]
    args += [milliseconds(respite_s), slots, max_lost_leases, suspects, counts_until_ms]
    args += [slots_of[priority] for priority in PRIORITIES]
    now_ms, *rest = await _claim(
        redis, [*_queues(partition), PartitionKeys(partition).control], args
    )
    if not rest:
        return Claimed(now_ms, too_late=True, due_s=None, claims=[])
    due_ms, *fields = rest
    claims = [
        Claim(
            keys=JobKeys.from_arq_id(arq_id.decode()),
            priority_number=number,
            attempt=attempt,
            token=f"{worker_id}:{attempt}",
            tries_burnt=tries,
            leases_lost=lost,
            cancelled=bool(flags & _CANCELLED),
            record=record,
            queued_at_ms=float(place),
            waited_s=waited_us / 1e6,
            lease_lost=bool(flags & _LEASE_LOST),
        )
        for arq_id, number, attempt, tries, lost, flags, record, place, waited_us in zip(
            *[iter(fields)] * _CLAIM_FIELDS, strict=True
        )
    ]
    return Claimed(now_ms, False, None if due_ms < 0 else due_ms / 1000, claims)


async def renew(
    redis: Redis, partition: int, claims: Sequence[Claim], *, lease_s: float, job_ttl_s: float
) -> Renewal:
    """Renew the leases of a worker in a partition. See `renew.lua`."""
    args: list[Argument] = [milliseconds(lease_s), milliseconds(job_ttl_s)]
    for each in claims:
        args += [each.keys.arq_id, each.priority_number, each.attempt, each.token]
    lost, cancel = await _renew(redis, _queues(partition), args)
    return Renewal([claims[number] for number in lost], [claims[number] for number in cancel])


def append_call(logs: Sequence[tuple[JobKeys, Entries]], *, in_cluster: bool) -> Command:
    """Return the command that appends events to logs of one partition.

    The reply is the list of the numbers of the refused events: see `append.lua`, `append_accepted`.
    """
    names: list[str] = []
    args: list[Argument] = []
    for keys, entries in logs:
        events, live = keys.events, keys.live  # built once per log: this is the hot path
        for entry_id, event in entries:
            names.append(events)
            args += (live, entry_id, event)
    return _append.call(names, args, in_cluster=in_cluster)


def append_accepted(refused: Sequence[int], logs: Sequence[tuple[JobKeys, Entries]]) -> list[bool]:
    """Read the reply to `append_call` with these logs: whether each has accepted its events."""
    if not refused:  # nearly always
        return [True] * len(logs)
    refusing, end = set(refused), 0
    return [refusing.isdisjoint(range(end, end := end + len(entries))) for _, entries in logs]


async def append(redis: Redis, logs: Sequence[tuple[JobKeys, Entries]]) -> list[int]:
    """Append events to logs; return the numbers of those that were refused. See `append.lua`."""
    command = append_call(logs, in_cluster=is_cluster(redis))
    refused: list[int] = await _append.run(redis, command)
    return refused


def finish_call(
    claim: Claim,
    entries: Entries,
    *,
    result: bytes,
    result_ttl_s: float,
    failed: bool,
    has_history: bool,
    in_cluster: bool,
) -> Command:
    """Return the command that ends a job. Its reply is read by `was_ours`.

    With a history, which must be the last field of `result`, the job's log is deleted.
    """
    keys = claim.keys
    names = [claim.queue, keys.in_progress, keys.job, keys.retry, keys.state, keys.result]
    names.append(keys.events)
    if failed:
        names += [keys.failed, PartitionKeys(keys.partition).failed]
    result, rest = _split_history(result) if has_history else (result, b"")
    args: list[Argument] = [keys.arq_id, claim.attempt, claim.token, keys.live, result]
    args += [milliseconds(result_ttl_s), rest]
    for entry in entries:
        args += entry
    return _finish.call(names, args, in_cluster=in_cluster)


async def finish(
    redis: Redis,
    claim: Claim,
    entries: Entries,
    *,
    result: bytes,
    result_ttl_s: float,
    failed: bool = False,
    has_history: bool = False,
) -> bool:
    """End a job; return False if the claim no longer held it. See `finish.lua`."""
    command = finish_call(
        claim,
        entries,
        result=result,
        result_ttl_s=result_ttl_s,
        failed=failed,
        has_history=has_history,
        in_cluster=is_cluster(redis),
    )
    return was_ours(await _finish.run(redis, command))


def _split_history(result: bytes) -> tuple[bytes, bytes]:
    """Split a result record after the beginning of its last list, which is empty."""
    end = b"]]}"
    if not result.endswith(b"[" + end):
        raise ValueError("the record does not end with the history")
    return result[: -len(end)], end


def release_call(
    claim: Claim,
    entries: Entries,
    *,
    delay_s: float | None,
    queued_at_ms: float,
    burns_try: bool,
    job_ttl_s: float,
    in_cluster: bool,
) -> Command:
    """Return the command that gives a job back. Its reply is read by `was_ours`."""
    keys = claim.keys
    names = [claim.queue, keys.in_progress, keys.retry, keys.state, keys.events]
    args: list[Argument] = [keys.arq_id, claim.attempt, claim.token, keys.live]
    args += [PartitionKeys(keys.partition).wake, "" if delay_s is None else milliseconds(delay_s)]
    args += [f"{queued_at_ms:.3f}", int(burns_try), milliseconds(job_ttl_s)]
    for entry in entries:
        args += entry
    return _release.call(names, args, in_cluster=in_cluster)


async def release(
    redis: Redis,
    claim: Claim,
    entries: Entries,
    *,
    delay_s: float | None,
    queued_at_ms: float,
    burns_try: bool,
    job_ttl_s: float,
) -> bool:
    """Give a job back to its queue, after a delay or, without one, at the score `queued_at_ms`.

    Return False if the claim no longer held it. See `release.lua`.
    """
    command = release_call(
        claim,
        entries,
        delay_s=delay_s,
        queued_at_ms=queued_at_ms,
        burns_try=burns_try,
        job_ttl_s=job_ttl_s,
        in_cluster=is_cluster(redis),
    )
    return was_ours(await _release.run(redis, command))


def was_ours(reply: object) -> bool:
    """Read the reply to `finish_call` or `release_call`."""
    return reply == 1


async def make_due(redis: Redis, partition: int, turns: Sequence[Turn]) -> list[bytes]:
    """Make jobs due at their places; return those that are in no queue. See `make_due.lua`."""
    args: list[Argument] = [PartitionKeys(partition).wake]
    for turn in turns:
        args += turn
    gone: list[int] = await _make_due(redis, _queues(partition), args)
    return [turns[number].arq_id for number in gone]


async def queue_set_back(
    redis: Redis,
    queue_name: str,
    *,
    back_ms: float,
    lease_s: float,
    begin: bytes,
    most_jobs: int,
) -> bytes:
    """Correct scores of a queue, from `begin` (b"": from now); return where the next call begins.

    b"" means that nothing is left. See `queue_set_back.lua`.
    """
    args: list[Argument] = [f"{back_ms:.3f}", milliseconds(lease_s), begin, most_jobs]
    following: bytes = await _queue_set_back(redis, [queue_name], args)
    return following


async def worker_pass_on(redis: Redis, partition: int, worker_id: str) -> None:
    """Wake another worker in place of this one. See `worker_pass_on.lua`."""
    await _worker_pass_on(redis, _queues(partition), [PartitionKeys(partition).wake, worker_id])


async def worker_count(
    redis: Redis,
    worker_id: str,
    *,
    number: int,
    totals_ttl_s: float,
    worker_ttl_s: float,
    buffer_chars: int,
    buffer_most: int,
    increments: Mapping[str, int],
) -> None:
    """Add report `number` of a worker to the totals of all. See `worker_count.lua`."""
    args: list[Argument] = [number, milliseconds(totals_ttl_s), milliseconds(worker_ttl_s)]
    args += [buffer_chars, buffer_most]
    for field, increment in increments.items():
        args += [field, increment]
    await _worker_count(redis, [STATS, WorkerKeys(worker_id).stats], args)


def _queues(partition: int) -> list[str]:
    return PartitionKeys(partition).queues
