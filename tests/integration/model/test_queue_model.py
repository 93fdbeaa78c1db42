"""The whole queue against a model: any order of calls, crashes, lost replies and late comers.

The scripts, the leases, the writer, the settlements and the readers are the real ones, on a real
server; `bench` does every step to them and to the model, and compares all that is in Redis.

A failure prints the steps, shortened, and a `@reproduce_failure` line: put it above `machine`.
`DARKQ_MODEL_EXAMPLES=5000 make test` looks further, at other examples each time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Coroutine, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from darkq import Settings
from darkq.event import START
from darkq.protocol.keys import PRIORITIES, JobKeys
from darkq_worker.attempts import outcome as oc
from integration.model.bench import COMPLETED, EXPIRED, Act, Bench
from integration.model.facts import LEASE_MS as HOUR_MS
from integration.model.facts import Content
from integration.model.job_model import Job
from integration.model.real_workers import Run, Worker
from support.servers import Server

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("DARKQ_MODEL_EXAMPLES", "60"))
STEPS = 40
MOST_JOBS = 8
STEP_TIMEOUT_S = 5.0

OUTCOMES = st.sampled_from(
    [
        COMPLETED,
        oc.Failed("rejected", "no"),
        oc.Failed("truncated", "it was cut off"),
        oc.Cancelled(),
        oc.TryAgain("overloaded", 3600.0),
        oc.TryAgain("truncated", 0.0),
        oc.HandBack(),
    ]
)
PIECES = st.lists(st.sampled_from(["a", "né ", "\U0001f600", '{"b"}\n']), min_size=1, max_size=3)
CONTENTS = st.builds(Content, st.sampled_from(["one", "two"]), st.sampled_from(PRIORITIES))
KEYS = st.sampled_from([None, None, "k", "l"])
LACKING = ["", "cancel", "disturb", "pause", "lease_ends", "delay_ends", "come_back"]
RARELY = st.sampled_from([False, False, True])
SLOTS = st.sampled_from([4, 4, 3, 2, 1, 0])
REPLY_LOST = st.sampled_from([None, None, None, "reply lost"])
FAULTS = st.sampled_from([None, None, None, "request lost", "reply lost"])


class QueueMachine(RuleBasedStateMachine):
    """Draws what happens next. Every rule is one step of the bench, checked afterwards."""

    def __init__(self, settings: Settings, tally: Counter[str]) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._broken = False
        self._random = Random(0)
        self._without = ""
        self.bench: Bench = self._runner.run(_opened(settings, tally))

    def _do(self, step: Coroutine[Any, Any, object]) -> None:
        async def checked() -> None:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await step
                await self.bench.check()

        self._broken = True
        self._runner.run(checked())
        self._broken = False

    def teardown(self) -> None:
        """Unless a step has failed: let everything come to its end, and read it."""
        try:
            if not self._broken:
                self._do(self.bench.drain())
                self._do(self.bench.read_all(self._random))
        finally:
            with self._runner:
                self._runner.run(self.bench.aclose())

    @initialize(
        random=st.randoms(use_true_random=True),
        contents=st.lists(CONTENTS, min_size=1, max_size=4),
        without=st.sampled_from(LACKING),
    )
    def begin(self, random: Random, contents: Sequence[Content], without: str) -> None:
        """Some stories lack a kind of events, so that the others come closer together."""
        self._random = random
        self._without = without
        self._do(self.bench.enqueue_many(contents, None))

    @rule(data=st.data())
    def then(self, data: Any) -> None:
        weights = self._weights() | {self._without: 0}
        names = [name for name, weight in weights.items() for _ in range(int(weight))]
        getattr(self, data.draw(st.sampled_from(names)))(data)

    def _weights(self) -> dict[str, int | bool]:
        """How often each kind of event comes, where it can."""
        return {
            "enqueue": len(self.jobs) < MOST_JOBS,
            "claim": 1 + bool(self.waiting),
            "write": 3 * bool(self.holding),
            "work": 3 * bool(self.holding),
            "renew": 2 * bool(self.runs),
            "haunt": 2 * bool(self.former),
            "cancel": 2,
            "retry": 2 * any(job.listed for job in self.jobs),
            "read": any(job.log for job in self.jobs) and len(self.bench.readers) < 3,
            "lease_ends": 3 * bool(self.leased),
            "delay_ends": 2 * bool(self.waiting),
            "pause": 1,
            "disturb": 1,
            "keep": not self.bench.kept,
            "come_back": 2 * bool(self.bench.kept),
        }

    # What there is to choose from

    @property
    def _workers(self) -> st.SearchStrategy[Worker]:
        return st.sampled_from(self.bench.workers)

    @property
    def jobs(self) -> list[Job]:
        return self.bench.model.jobs

    @property
    def leased(self) -> list[Job]:
        return [job for job in self.jobs if job.is_leased]

    @property
    def waiting(self) -> list[Job]:
        return [job for job in self.jobs if job.score and not job.is_leased]

    @property
    def runs(self) -> list[Run]:
        return [run for worker in self.bench.workers for run in worker.runs]

    @property
    def holding(self) -> list[Worker]:
        return [worker for worker in self.bench.workers if _held(worker)]

    @property
    def former(self) -> list[Run]:
        return [run for run in self.runs if not run.hold.is_ours]

    # What may happen

    def enqueue(self, data: Any) -> None:
        contents, fault = (
            data.draw(st.lists(CONTENTS, min_size=1, max_size=2)),
            data.draw(REPLY_LOST),
        )
        if len(contents) > 1:
            self._do(self.bench.enqueue_many(contents, fault))
        else:
            self._do(self.bench.enqueue(contents[0], data.draw(KEYS), fault))

    def claim(self, data: Any) -> None:
        worker, slots, bulk_slots = data.draw(st.tuples(self._workers, SLOTS, SLOTS))
        respite, fault = data.draw(RARELY), data.draw(REPLY_LOST)
        self._do(self.bench.claim(worker, slots, bulk_slots, respite=respite, fault=fault))

    def write(self, data: Any) -> None:
        """All jobs of a worker write at once."""
        worker = data.draw(st.sampled_from(self.holding))
        acts = [Act(run, data.draw(PIECES)) for run in _held(worker) if run.can_write]
        self._do(self.bench.work(worker, acts, data.draw(FAULTS)))

    def work(self, data: Any) -> None:
        """Some jobs of a worker write, and others end."""
        worker = data.draw(st.sampled_from(self.holding))
        runs = data.draw(st.lists(st.sampled_from(_held(worker)), min_size=1, unique_by=id))
        acts = [self._act(data, run) for run in runs]
        self._do(self.bench.work(worker, acts, data.draw(FAULTS)))

    def renew(self, data: Any) -> None:
        """A heartbeat; it may cross the end of some of its jobs."""
        worker = data.draw(st.sampled_from([w for w in self.bench.workers if w.runs]))
        runs = data.draw(st.lists(st.sampled_from(worker.runs), min_size=1, unique_by=id))
        self._do(self.bench.renew(worker, runs, data.draw(REPLY_LOST)))

    def haunt(self, data: Any) -> None:
        """A zombie writes or ends what is not its own any more, or its heart beats."""
        what = data.draw(st.sampled_from(["acts", "acts", "beats", "repeats itself"]))
        run = data.draw(st.sampled_from(self.former))
        if what == "acts":
            self._do(self.bench.haunt(self._act(data, run), data.draw(FAULTS)))
        elif what == "beats":
            self._do(self.bench.haunt_lease(run))
        else:
            run = data.draw(st.sampled_from(self.runs))
            back, count = data.draw(st.tuples(st.integers(0, 2), st.integers(1, 3)))
            self._do(self.bench.send_again(run, back, count))

    def _act(self, data: Any, run: Run) -> Act:
        if run.hold.is_ours and run.hold.job.log is None:  # its record is gone for longer still
            return Act(run, [], EXPIRED)
        if run.can_write and data.draw(st.booleans()):
            return Act(run, data.draw(PIECES))
        if not run.hold.started and data.draw(RARELY):
            return Act(run, [], oc.Deferred(data.draw(st.sampled_from([HOUR_MS, 0.0]))))
        return Act(run, data.draw(PIECES | st.just([])), data.draw(OUTCOMES))

    def cancel(self, data: Any) -> None:
        if not self.waiting or data.draw(st.booleans()):
            job = data.draw(st.sampled_from(self.jobs))
            self._do(self.bench.cancel(job, data.draw(REPLY_LOST)))
        else:
            job, worker = data.draw(st.tuples(st.sampled_from(self.waiting), self._workers))
            then = data.draw(OUTCOMES | st.sampled_from([None, "crash"]))
            self._do(self.bench.cancel_too_late(job, worker, then))

    def retry(self, data: Any) -> None:
        """Somebody wants a job to run again: one that has failed, or another."""
        of_any = data.draw(RARELY)
        jobs = [job for job in self.jobs if job.listed or of_any]
        self._do(self.bench.retry(data.draw(st.sampled_from(jobs)), data.draw(REPLY_LOST)))

    def pause(self, data: Any) -> None:
        self._do(self.bench.pause(data.draw(st.sampled_from(PRIORITIES))))

    def read(self, data: Any) -> None:
        job = data.draw(st.sampled_from([job for job in self.jobs if job.log]))
        after = data.draw(st.sampled_from([START, *(event.cursor for event in job.log)]))
        self._do(self.bench.read(job, after))

    def lease_ends(self, data: Any) -> None:
        """A worker falls silent, for a while or for ever; another may be there at once."""
        end = data.draw(st.sampled_from(["theft", "theft", "lapse", "score", "crash"]))
        job, worker = data.draw(st.tuples(st.sampled_from(self.leased), self._workers))
        if end == "crash":
            self._do(self.bench.crash(worker))
            return
        self._do(self.bench.lease_ends(job, key_too=end != "score"))
        if end == "theft":
            self._do(self.bench.claim(worker, MOST_JOBS, MOST_JOBS))

    def delay_ends(self, data: Any) -> None:
        job, early = data.draw(st.tuples(st.sampled_from(self.waiting), RARELY))
        self._do(self.bench.call_forward(job) if early else self.bench.delay_ends(job))

    def keep(self, _: Any) -> None:
        self._do(self.bench.keep())

    def come_back(self, data: Any) -> None:
        """Redis loses what came since an earlier moment; all others remember it.

        Red when a log does not go back behind what it once had acknowledged
        (`AttemptLog.resume`): the rest of the text is missing. Red when `append.lua` lets an
        attempt begin that was not given out there.
        """
        self._do(self.bench.come_back(lambda run: self._act(data, run)))

    def disturb(self, data: Any) -> None:
        """Redis restarts, keys run out, or somebody lays hands on a queue."""
        what = data.draw(st.sampled_from(["restart", "expire", "expire", "take out"]))
        job = data.draw(st.sampled_from(self.jobs))
        if what == "restart":
            self._do(self.bench.restart())
        elif what == "take out" and job.is_leased:
            self._do(self.bench.take_out(job))
        else:
            # A claim gives all keys of a job days to live, the record fewer than the others.
            lives = ["record"] if job.recorded else [] if job.is_leased else ["everything"]
            self._do(self.bench.expire(job, data.draw(st.sampled_from(["key", *lives]))))


def _held(worker: Worker) -> list[Run]:
    """The runs whose job is still theirs."""
    return [run for run in worker.runs if run.hold.is_ours]


async def _opened(settings: Settings, tally: Counter[str]) -> Bench:
    return Bench(settings, tally)


@pytest.mark.timeout(600 if EXAMPLES <= 100 else 0)  # a failure is shortened for minutes
def test_the_queue_keeps_its_promises_in_any_order_of_events(
    redis_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "darkq")  # until the test's end
    tally: Counter[str] = Counter()
    redis_settings = Settings(
        _env_file=None,
        redis_url=redis_server.url,
        state_dir=tmp_path,
        worker_lease_s=HOUR_MS / 1000,
    )

    def machine() -> QueueMachine:
        with Redis(unix_socket_path=str(redis_server.socket)) as redis:
            redis.flushall()
        numbers = count(1)  # small ids are the same each time, and easier to read
        monkeypatch.setattr(JobKeys, "new", lambda p: JobKeys(p, f"{next(numbers):032x}"))
        return QueueMachine(redis_settings, tally)

    run_state_machine_as_test(
        cast(Any, machine),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize="DARKQ_MODEL_EXAMPLES" not in os.environ,
            print_blob=True,
            report_multiple_bugs=False,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(tally)
