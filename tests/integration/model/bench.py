"""The real queue and the model side by side: every action is done to both, and must agree.

The scripts hear of time in two ways only: a key is still there or not, and a score is behind
`TIME` or not. Leases and delays are an hour here, so that nothing runs out by itself, and time
is made to pass for one job at a time: its key is deleted, as expiry would, and its score is set
to now, which is where the passing of time would have brought now to its score. Neither a script
nor a client can tell the difference, and nobody sleeps.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from random import Random
from typing import Literal, NamedTuple, TypeAlias, cast

from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.errors import CannotRetry, IdempotencyConflict, JobNotFound
from darkq.event import START, Cursor
from darkq.jobs import failed as failures
from darkq.jobs.cancel import cancel
from darkq.jobs.status import read_status
from darkq.protocol.job import Priority
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from darkq.redis import scripts
from darkq.redis.pool import pool
from darkq_worker.attempts.outcome import Completed, Deferred, Failed
from darkq_worker.upstreams.base import End as Complete
from integration.model.facts import Content, End, Release, Span
from integration.model.faulty_redis import Fault, FaultyRedis
from integration.model.job_model import Hold, Job
from integration.model.photograph import digest, photograph
from integration.model.promises import check
from integration.model.queue_model import Claimed, QueueModel
from integration.model.readers import Reader
from integration.model.real_workers import Run, Worker
from support.by_hand import Hand, chunk
from support.past import Past

WORKERS = 3
COMPLETED = Completed(Complete())
EXPIRED = Failed("expired", "it waited for too long")

Expiry: TypeAlias = Literal["record", "everything", "key"]


class Act(NamedTuple):
    """What a run does next: it writes, and then it may end."""

    run: Run
    pieces: Sequence[str]
    outcome: End | Release | None = None


class Kept(NamedTuple):
    """The model at an earlier moment, and the holds that workers had then."""

    model: QueueModel
    holds: Mapping[Run, Hold]


class Bench:
    """A producer, three workers, and the model of what they do."""

    def __init__(self, settings: Settings, tally: Counter[str]) -> None:
        self.tally = tally
        self.model = QueueModel()
        self.settings = settings
        self.observer = Redis.from_url(settings.find_redis_url())
        self.redis = cast(FaultyRedis, FaultyRedis.from_pool(pool(settings)))
        self.client = Client(settings=settings)
        connections = self.client._redis.connection_pool
        self.producer = cast(FaultyRedis, FaultyRedis.from_pool(connections))
        self.client._redis = self.producer
        self.workers = [Worker(settings, self.redis) for _ in range(WORKERS)]
        self.readers: list[Reader] = []
        self.kept: Kept | None = None
        self._past = Past(self.observer)
        self._statuses: dict[Job, object] = {}
        self._names = 0
        for worker in self.workers:
            self._begin(worker)

    async def aclose(self) -> None:
        for reader in self.readers:
            await reader.leave()
        for worker in self.workers:
            await worker.aclose()
        await self.client.aclose()
        await self.redis.aclose()
        await self.observer.aclose()

    def _begin(self, worker: Worker) -> None:
        worker.begin(f"w{self._names}")
        self._names += 1

    # Producers

    async def enqueue(self, content: Content, key: str | None, fault: Fault | None) -> None:
        known, now = self.model.known_by(key), _now_ms()
        self.producer.fault = fault
        try:
            handle = await self.client.enqueue(
                content.prompt,
                priority=content.priority,
                metadata=content.metadata,
                idempotency_key=key,
            )
        except IdempotencyConflict as conflict:
            self.tally["enqueue: conflict"] += 1
            assert known is not None
            assert known.content != content
            assert conflict.job_id == known.keys.public_id  # noqa: PT017  one of many replies
            return
        assert handle.duplicate == (known is not None)
        if known is None:
            self.model.add(JobKeys.parse(handle.id), content, key, _span(now))
        else:
            self.tally["enqueue: duplicate"] += 1
            assert (handle.id, content) == (known.keys.public_id, known.content)

    async def enqueue_many(self, contents: Sequence[Content], fault: Fault | None) -> None:
        self.producer.fault, now = fault, _now_ms()
        handles = await self.client.enqueue_many([content.job() for content in contents])
        for handle, content in zip(handles, contents, strict=True):
            self.model.add(JobKeys.parse(handle.id), content, None, _span(now))

    # Workers

    async def claim(
        self,
        worker: Worker,
        slots: int,
        bulk_slots: int,
        *,
        respite: bool = False,
        fault: Fault | None = None,
    ) -> None:
        await worker.leases.claim(0, slots=0, bulk_slots=0)  # which learns the time
        self.redis.fault, now = fault, _now_ms()
        respite_s = self.settings.worker_lease_s / 2 if respite else 0
        claims, due_s = await worker.leases.claim(
            0, slots=slots, bulk_slots=bulk_slots, respite_s=respite_s
        )
        span = _span(now)

        def expected() -> Claimed:
            return self.model.claim(worker.name, slots, bulk_slots, span, respite=respite)

        if fault == "reply lost":  # nobody knows of these, until their leases run out
            self.tally["claim: nobody's"] += bool(expected().holds)
        holds, due = expected()
        assert [_told(hold) for hold in holds] == [
            (c.keys, c.queue, c.attempt, c.token, c.tries_burnt, c.leases_lost, c.cancelled,
             bool(c.record), c.place_ms)
            for c in claims
        ]  # fmt: skip
        assert (due_s is None) == (due is None)
        if due is not None and due_s is not None:
            assert max(0, due.low - span.high) - 5 <= due_s * 1000
            assert due_s * 1000 <= max(0, due.high - span.low) + 5
        for claim, hold in zip(claims, holds, strict=True):
            self.tally["claim: lost before"] += hold.job.lost > 0
            Run(worker, claim, hold, self.settings)

    async def work(self, worker: Worker, acts: Sequence[Act], fault: Fault | None = None) -> bool:
        """Write and settle in one flush; return whether any of it counted.

        A flush sends all texts and then the ends, each with its last text. A writer that has lost
        its connection asks first, and may hear that a log is not its own any more.
        """
        writes = [act for act in acts if act.outcome is None]
        worker.connection.fault, now = fault, _now_ms()
        ends = [(act, _dated(act.outcome, now)) for act in acts if act.outcome is not None]
        replies_lost = worker.connection.replies_lost
        for act in acts:
            act.run.write(act.pieces)
        settled = [act.run.settle(outcome) for act, outcome in ends]
        if not worker.is_connected or fault == "request lost":
            self._resume(worker)
        await worker.flushed()
        worker.is_connected = True
        counted = False
        for act in writes:
            counted |= act.run.hold.append(act.pieces)
        for (act, outcome), future in zip(ends, settled, strict=True):
            hold = act.run.hold
            ours = hold.job.settle(hold, act.pieces, outcome, _span(now))
            # Sent again after a lost reply, a second release says that it is not ours any more.
            was_sent_twice = worker.connection.replies_lost != replies_lost
            heard = ours and not (was_sent_twice and isinstance(outcome, Release))
            self.tally["settle: not heard"] += ours and not heard
            assert future.result() == heard
            counted |= ours
        if worker.connection.replies_lost != replies_lost:
            self._resume(worker)
        for run in worker.runs:
            assert run.has_settled or run.log.lost == run.heard_of_loss == run.hold.lost
        return counted

    def _resume(self, worker: Worker) -> None:
        """A writer that connects asks where its logs stand, and sends again what they lack.

        What an attempt lacks that ends goes with its settlement, if that is still its own.
        """
        for run in worker.runs:
            if run.hold.is_ours or not run.has_settled:
                self.tally["resume: sent again"] += run.hold.resume()
                self.tally["resume: lost"] += run.hold.lost

    async def renew(self, worker: Worker, runs: Sequence[Run], fault: Fault | None = None) -> None:
        self.redis.fault, now = fault, _now_ms()
        lost, to_cancel = await worker.leases.renew([run.claim for run in runs])
        ours = [run for run in runs if run.hold.is_ours]
        assert lost == [run.claim for run in runs if run not in ours]
        assert to_cancel == [run.claim for run in ours if run.hold.job.to_cancel]
        for run in ours:
            self.tally["renew: taken up again"] += not run.hold.job.is_leased
            run.hold.job.lease(_span(now))

    async def haunt(self, act: Act, fault: Fault | None) -> None:
        """A former holder does what holders do. Text that nobody has superseded yet may stand."""
        # A writer that connects anew may send again what other logs of its worker lack.
        writes_this_alone = act.run.worker.is_connected
        before = await digest(self.observer)
        counted = await self.work(act.run.worker, [act], fault)
        assert not counted or act.outcome is None
        self.tally["zombie: text before its heir's"] += counted
        if not counted:
            self.tally["zombie: refused"] += 1
            assert not writes_this_alone or await digest(self.observer) == before

    async def haunt_lease(self, run: Run) -> None:
        """A former holder's heartbeat."""
        before = await digest(self.observer)
        await self.renew(run.worker, [run])
        assert await digest(self.observer) == before

    async def send_again(self, run: Run, places_back: int, count: int) -> None:
        """Events that begin at or before the log's last one are refused, all of them."""
        log = run.hold.job.log
        if log is not None and log[-1].cursor.attempt <= run.hold.attempt:
            first = log[-1].cursor.seq - places_back
            if log[-1].cursor.attempt < run.hold.attempt or first < 0:
                return
        else:
            first = len(run.hold.texts) + run.hold.started
        before = await digest(self.observer)
        events = [chunk(run.hold.attempt, first + n, "again") for n in range(count)]
        assert await Hand(self.observer).append(run.claim, *events) == list(range(count))
        assert await digest(self.observer) == before

    # Anybody

    async def cancel(
        self, job: Job, fault: Fault | None, interlude: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Cancel; what the interlude does comes after the canceller has looked at the job."""
        attempt = job.attempt
        self.redis.fault, self.redis.interlude = fault, interlude
        try:
            await cancel(self.redis, job.keys, result_ttl_s=self.settings.result_ttl_s)
            found = True
        except JobNotFound:
            found = False
        self.redis.interlude = None
        waits_anew = attempt != job.attempt and job.is_unfinished and not job.is_leased
        self.tally["cancel: again"] += waits_anew
        verdict = job.cancel()
        self.tally[f"cancel: {verdict}"] += 1
        assert found == (verdict != "unknown")

    async def cancel_too_late(
        self, job: Job, worker: Worker, then: End | Release | Literal["crash"] | None
    ) -> None:
        """Cancel, while a worker claims the job and perhaps ends it or dies."""

        async def interlude() -> None:
            await self.claim(worker, len(self.model.jobs), len(self.model.jobs))
            runs = [run for run in worker.runs if run.hold is job.holder]
            if then == "crash":
                await self.crash(worker)
            elif then is not None:
                await self.work(worker, [Act(run, [], then) for run in runs])

        await self.cancel(job, None, interlude)

    async def retry(self, job: Job, fault: Fault | None) -> None:
        """Run a failed job again; whoever has read so far hears of its failure first."""
        for reader in self._readers_of(job):
            if job.ending:
                await reader.ended()
                self.readers.remove(reader)
        self.redis.fault, now = fault, _now_ms()
        try:
            await failures.retry(self.redis, job.keys, self.settings)
            heard = True
        except (CannotRetry, JobNotFound):
            heard = False
        again = job.retry(_span(now))
        self.tally["retry: queued"] += again
        # Sent again after a lost reply, the second call finds a job that has not failed.
        assert heard == (again and fault is None)

    async def pause(self, priority: Priority) -> None:
        """An operator pauses a queue, or resumes it."""
        queue = self.client.queue(priority)
        if priority in self.model.paused:
            await queue.resume()
        else:
            await queue.pause()
            self.tally["pause"] += 1
        self.model.paused ^= {priority}

    async def call_forward(self, job: Job) -> None:
        """The turn of a job comes earlier than it was told, if it waits at all."""
        now_ms = _now_ms()
        place = f"{now_ms:.3f}".encode()
        number = PRIORITIES.index(job.content.priority)
        turn = scripts.Turn(job.keys.arq_id.encode(), number, place)
        gone = await scripts.make_due(self.redis, job.keys.partition, [turn])
        assert bool(gone) == (job.score is None)
        if job.score and job.score.low > now_ms:
            job.move(Span(now_ms, now_ms))

    def _readers_of(self, job: Job) -> list[Reader]:
        return [reader for reader in self.readers if reader.job is job]

    async def read(self, job: Job, after: Cursor) -> None:
        self.readers.append(Reader(self.redis, self.client._live, job, after))

    # What nobody does

    async def lease_ends(self, job: Job, *, key_too: bool = True) -> None:
        """Let the time of a lease pass; its key may expire a moment after its score is due."""
        await self._is_due(job)
        if key_too:
            await self.observer.delete(job.keys.in_progress)
            job.lease_end = None

    async def delay_ends(self, job: Job) -> None:
        await self._is_due(job)

    async def _is_due(self, job: Job) -> None:
        now_ms = _now_ms()
        await self.observer.zadd(job.queue, {job.keys.arq_id: now_ms}, xx=True)
        job.move(Span(now_ms, now_ms))

    async def crash(self, worker: Worker) -> None:
        """A process dies, and another is started: leases of the dead run out."""
        held = [run.hold.job for run in worker.runs if run.hold.is_ours]
        self._begin(worker)
        for job in held:
            await self.lease_ends(job)

    async def restart(self) -> None:
        """Redis is restarted and has lost nothing but its clients and what it had loaded."""
        await self.observer.script_flush()
        for kind in ("normal", "pubsub"):
            await self.observer.execute_command("CLIENT KILL", "TYPE", kind, "SKIPME", "yes")
        for worker in self.workers:
            worker.is_connected = False

    async def keep(self) -> None:
        """Remember this moment, as a replica that lags from now on does."""
        await self._past.keep()
        runs = [run for worker in self.workers for run in worker.runs]
        model, holds = deepcopy((self.model, [run.hold for run in runs]))
        self.kept = Kept(model, dict(zip(runs, holds, strict=True)))

    async def come_back(self, choose: Callable[[Run], Act]) -> None:
        """That replica takes over. For Redis, what came since never was; workers still know of it.

        - A run of then that can still write goes on: its log has all of its text in the end.
        - A run that has ended since, or has lost its log, is over. Its job is held until the lease
          runs out, and runs again.
        - What was claimed since changes nothing any more, and its heartbeat says so.
        - What was enqueued since is unknown.

        Two runs of one number are not played here, but by test_forked_histories.py; nor are
        readers: they may get `CursorGone` (tests/integration/tail/test_forgotten.py).
        """
        assert self.kept is not None
        (model, holds), self.kept = self.kept, None
        for reader in self.readers:
            await reader.leave()
        self.readers, self._statuses = [], {}
        await self._past.come_back()
        await self.restart()
        self.model = model
        for worker in self.workers:
            strays: list[Run] = []
            for run in list(worker.runs):
                if run not in holds:
                    run.hold.job = self._job_of(run.hold)
                    strays.append(run)
                elif run.can_write:
                    self.tally["come back: goes on"] += 1
                    run.hold.go_on_as(holds[run])
                    run.hold = holds[run]
                else:
                    worker.drop(run)
            await self.renew(worker, strays)
            assert not any(run.hold.is_ours for run in strays)
            if strays:
                assert not await self.work(worker, [choose(run) for run in strays])
            for run in strays:
                worker.drop(run)
            self.tally["come back: stray"] += len(strays)
        self.tally["come back"] += 1

    def _job_of(self, hold: Hold) -> Job:
        """Return the job as it is known now, if it is."""
        job = hold.job
        known = (each for each in self.model.jobs if each.keys == job.keys)
        return next(known, Job(job.keys, job.content, job.et, None, recorded=False, log=None))

    async def expire(self, job: Job, what: Expiry) -> None:
        """Let a time to live run out. All keys of a job have the same, renewed by every claim."""
        keys = job.keys
        if what == "record":  # not by time, but an operator's memory policy may do it
            await self.observer.delete(keys.job)
            job.recorded = False
        elif what == "key":  # the idempotency key's
            for key in [key for key, known in self.model.remembered.items() if known is job]:
                await self.observer.delete(PartitionKeys(0).idempotency(key))
                del self.model.remembered[key]
        else:
            await self.observer.delete(keys.job, keys.retry, keys.state, keys.result, keys.events)
            await self.observer.delete(keys.failed)
            job.expire()
            await self._forget(job)
            self.kept = None  # nobody is taken back by days

    async def _forget(self, job: Job) -> None:
        """No attempt lasts as long as a job's keys, and no reader stays for so long."""
        for reader in self._readers_of(job):
            await reader.leave()
            self.readers.remove(reader)
        for worker in self.workers:
            for run in [run for run in worker.runs if run.hold.job is job]:
                worker.drop(run)

    async def take_out(self, job: Job) -> None:
        """Somebody removes a job from its queue by hand."""
        await self.observer.zrem(job.queue, job.keys.arq_id)
        job.score, job.taken_out = None, True
        await self._forget(job)

    # What must be true after every step

    async def check(self) -> None:
        photo = await photograph(self.observer)
        self.model.pin(photo.scores, photo.enqueued_ms)
        expected = self.model.picture()
        names = photo.values.keys() | expected.keys()
        found = {name: (photo.values.get(name), expected.get(name)) for name in names}
        differ = [(name, *pair) for name, pair in found.items() if pair[0] != pair[1]]
        assert not differ, f"key, found, expected: {differ}"
        excused = [job.keys for job in self.model.jobs if job.taken_out or job.result_expired]
        check(photo, [job.keys for job in self.model.jobs], excused)
        for job in self.model.jobs:
            await self._check_status(job)
        for worker in self.workers:
            for run in worker.runs:
                assert not (run.hold.is_ours and run.hold.job.log and run.log.lost)

    async def _check_status(self, job: Job) -> None:
        """Ask for the status of a job that has changed; of others it follows from their keys."""
        expected = job.status(_now_ms())
        if self._statuses.get(job) == expected:
            return
        self._statuses[job] = expected
        try:
            status = await read_status(self.observer, job.keys)
        except JobNotFound:
            assert expected is None
        else:
            assert (status.state, status.attempt, status.tries) == expected
            assert (status.due_in_ms > 0) == (status.state == "deferred")

    # The end

    async def drain(self) -> None:
        """Let all time pass and one worker go on: every job must come to its end."""
        for job in self.model.jobs:
            if job.is_leased:
                await self.lease_ends(job)
            else:
                await self.delay_ends(job)
        for priority in list(self.model.paused):
            await self.pause(priority)
        worker = self.workers[0]
        await self.crash(worker)
        await self.claim(worker, len(self.model.jobs), len(self.model.jobs))
        for run in worker.runs:
            act = Act(run, ["the end"], COMPLETED) if run.hold.job.log else Act(run, [], EXPIRED)
            assert await self.work(worker, [act])
        for job in self.model.jobs:
            assert not job.is_unfinished or job.taken_out

    async def read_all(self, random: Random) -> None:
        """Read every job from its beginning and from somewhere, and hear from those who read."""
        for job in self.model.jobs:
            if job.ending:
                cursors = [event.cursor for event in job.log or ()]
                for after in {START, random.choice([START, *cursors])}:
                    await self.read(job, after)
        for reader in self.readers:
            if reader.job.ending:
                await reader.ended()


def _dated(outcome: End | Release, now_ms: float) -> End | Release:
    """The outcome; a job that is put off has a turn some time after now."""
    if isinstance(outcome, Deferred):
        return Deferred(round(now_ms + outcome.turn_ms, 3))
    return outcome


def _told(hold: Hold) -> tuple[object, ...]:
    """What a worker must be told of its claim."""
    job = hold.job
    return (
        job.keys, job.queue, hold.attempt, hold.token, job.tries, job.lost, job.to_cancel,
        job.recorded, hold.place.low,
    )  # fmt: skip


def _now_ms() -> float:
    return time.time() * 1000


def _span(since_ms: float) -> Span:
    """From then to now."""
    return Span(since_ms, _now_ms())
