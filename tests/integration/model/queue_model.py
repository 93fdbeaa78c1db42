"""The queue as plain Python: what every call must answer, and what must stand in Redis after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from darkq.protocol.job import Priority
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from integration.model.facts import RESPITE_MS, Content, Span
from integration.model.job_model import Hold, Job


class Claimed(NamedTuple):
    """What a claim must answer: the holds, and when the next job is due."""

    holds: list[Hold]
    due: Span | None


class QueueModel:
    """All jobs of a partition, and what idempotency keys stand for."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.remembered: dict[str, Job] = {}
        self.paused: set[Priority] = set()

    def known_by(self, key: str | None) -> Job | None:
        """The job of an idempotency key, as long as anything of it is left."""
        job = self.remembered.get(key or "")
        return job if job and (job.recorded or job.ending) else None

    def add(self, keys: JobKeys, content: Content, key: str | None, now: Span) -> Job:
        job = Job(keys, content, et=now, score=now)
        self.jobs.append(job)
        if key is not None:
            self.remembered[key] = job
        return job

    def claim(
        self, worker_id: str, slots: int, bulk_slots: int, now: Span, *, respite: bool
    ) -> Claimed:
        """Take what is due, most urgent queue first."""
        holds: list[Hold] = []
        firsts: list[Span] = []
        for priority in PRIORITIES:
            limit = bulk_slots if priority == "bulk" else slots
            wanted = min(slots - len(holds), limit)
            if wanted <= 0:
                continue
            waiting = [job for job in self.jobs if job.content.priority == priority and job.score]
            waiting.sort(key=_place)
            if priority in self.paused:
                first = next((job for job in waiting if job.is_due(now.low)), None)
                if first is None or (first.recorded and not first.to_cancel):
                    continue
                wanted = 1  # it is only to be ended
            for job in [job for job in waiting if job.is_due(now.low)][:wanted]:
                if job.lease_end:  # it ends a moment after its score
                    job.move(job.lease_end)
                elif job.holder and respite:
                    job.move(now.later(RESPITE_MS))
                else:
                    holds.append(job.take(worker_id, now))
            firsts += [job.score for job in waiting if job.score]
        return Claimed(holds, min(firsts, default=None))

    def pin(self, scores: Mapping[str, float], times: Mapping[str, float]) -> None:
        """Take over what Redis says about each job's place and age, if it may be so."""
        for job in self.jobs:
            if job.score is not None and job.keys.arq_id in scores:
                job.score = job.score.pinned(scores[job.keys.arq_id])
            if job.keys.job in times:
                job.et = job.et.pinned(times[job.keys.job])

    def picture(self) -> dict[str, object]:
        """What must stand in Redis: all of it, and nothing else."""
        picture: dict[str, object] = {}
        for job in self.jobs:
            picture |= job.picture()
        for priority in PRIORITIES:
            scores = {job.keys.arq_id: job.score.low for job in self.jobs
                      if job.score and job.content.priority == priority}  # fmt: skip
            if scores:
                picture[PartitionKeys(0).queue(priority)] = scores
        if failed := {job.keys.arq_id for job in self.jobs if job.listed}:
            picture[PartitionKeys(0).failed] = failed
        if self.jobs:
            picture[PartitionKeys(0).tenant_jobs(None)] = {job.keys.arq_id for job in self.jobs}
        if self.paused:
            picture[PartitionKeys(0).control] = {f"paused:{priority}" for priority in self.paused}
        for key, job in self.remembered.items():
            picture[PartitionKeys(0).idempotency(key)] = job.keys.arq_id
        return picture


def _place(job: Job) -> tuple[float, str]:
    assert job.score is not None
    return job.score.low, job.keys.arq_id
