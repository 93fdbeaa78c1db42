"""What users are promised, asked of a photograph of Redis alone: the model has no say here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby, pairwise

from darkq.event import TERMINAL, AnyEvent, Chunk, Queued, Retrying, Started
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import Failure
from integration.model.facts import Ending
from integration.model.photograph import Photograph
from support.leaks import PERMANENT


def check(
    photo: Photograph, acknowledged: Collection[JobKeys], excused: Collection[JobKeys]
) -> None:
    """Check every job that was acknowledged. An excused one may be nowhere."""
    for name in photo.permanent:
        assert any(pattern.fullmatch(name.encode()) for pattern in PERMANENT), f"{name} has no end"
    for keys in acknowledged:
        _check_place(photo, keys, may_be_nowhere=keys in excused)
        _check_lease(photo, keys)
        log = photo.values.get(keys.events)
        if log is not None:
            _check_log(log)
            _check_end(log, photo.values.get(keys.result))


def _check_place(photo: Photograph, keys: JobKeys, *, may_be_nowhere: bool) -> None:
    """A job waits or runs in one queue, or it has ended, and nothing else."""
    queues = PartitionKeys(keys.partition).queues
    places = sum(keys.arq_id in photo.values.get(name, {}) for name in queues)
    places += keys.result in photo.values
    assert places == 1 or (places == 0 and may_be_nowhere), f"{keys} is in {places} places"
    if keys.result in photo.values:
        left = {keys.job, keys.retry, keys.in_progress, keys.state} & photo.values.keys()
        assert not left, f"{keys} has ended and left {left}"


def _check_lease(photo: Photograph, keys: JobKeys) -> None:
    """Whoever has the lease holds the job, as its latest attempt."""
    token = photo.values.get(keys.in_progress)
    state = photo.values.get(keys.state, {})
    if token is not None:
        assert state.get("held") == "1"
    if state.get("held") == "1":
        attempt = photo.values[keys.retry]
        assert token is None or token.endswith(f":{attempt}")
        burnt, lost = int(state.get("tries", 0)), int(state.get("lost", 0))
        assert burnt + lost < attempt, "no attempt burns a try, or loses a lease, twice"


def _check_log(log: Sequence[AnyEvent]) -> None:
    """Attempts follow one another, each without a hole, each from its first event to its last."""
    cursors = [event.cursor for event in log]
    assert all(one < next_ for one, next_ in pairwise(cursors))
    for number, group in groupby(log, key=lambda event: event.cursor.attempt):
        events = list(group)
        first = 0 if number else 1
        assert [event.cursor.seq for event in events] == list(range(first, first + len(events)))
        if number == 0 or isinstance(events[0], Queued):  # later: it had failed, and runs again
            assert [type(event) for event in events] == [Queued]
            continue
        *body, last = events
        if isinstance(last, Chunk | Started):
            body = events
        assert all(isinstance(event, Chunk) for event in body[1:])
        assert all(isinstance(event, Started) for event in body[:1])
        assert body or isinstance(last, (Retrying, *TERMINAL))
    assert not any(isinstance(event, TERMINAL) for event in log[:-1])


def _check_end(log: Sequence[AnyEvent], result: Ending | None) -> None:
    """There is a last event if and only if there is a result, and they agree."""
    last = log[-1]
    assert isinstance(last, TERMINAL) == (result is not None)
    if result is not None:
        assert (type(last).__name__.lower(), last.cursor.attempt) == (
            result.outcome,
            result.attempt,
        )
        attempt = [event for event in log if event.cursor.attempt == result.attempt]
        text = "".join(event.text for event in attempt if isinstance(event, Chunk))
        assert isinstance(result.answer, Failure) or result.answer == text
