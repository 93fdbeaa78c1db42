"""Scripts of what is limited: calls of an upstream, and calls of an API key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from redis.asyncio import Redis

from darkq.protocol.keys import LimitKeys, api_key_use
from darkq.redis.scripts.script import Argument, Script, milliseconds
from darkq.redis.scripts.workers import Turn

_limit_admit = Script("limit_admit", includes=["drop", "limits"])
_limit_report = Script("limit_report", includes=["drop", "limits"])
_apikey_enter = Script("apikey_enter", includes=["drop"])

MOST_CALLED = 100  # `MOST_CALLED` of limits.lua: more turns wait when a reply has so many

CallWord: TypeAlias = Literal[
    "calling", "answering", "answered", "left", "alive", "failed", "limited", "gone", "away"
]
EnterOutcome: TypeAlias = Literal["entered", "rate", "places"]


class Limits(NamedTuple):
    """What an upstream allows. `windows` are pairs: number of calls, length in ms."""

    concurrency: int
    lease_ms: int
    horizon_ms: int
    cooldown_ms: int
    cooldown_max_ms: int
    windows: Sequence[tuple[int, int]] = ()

    def _arguments(self) -> list[Argument]:
        args: list[Argument] = [self.concurrency, self.lease_ms, self.horizon_ms]
        args += [self.cooldown_ms, self.cooldown_max_ms, len(self.windows)]
        for window in self.windows:
            args += window
        return args


class Question(NamedTuple):
    """A job that asks for its call; `queued_at_ms` is its score in its queue."""

    call: str
    arq_id: str
    priority_number: int
    queued_at_ms: float


class Answer(NamedTuple):
    """What a job may do: its call ("go", "probe"), or "wait" until `turn_ms`, epoch ms."""

    word: Literal["go", "probe", "wait"]
    turn_ms: float = 0.0


class CallReport(NamedTuple):
    """The state of a call. `limit_report.lua` lists the words and their arguments.

    For `gone` and `away` the call is the id of a waiting job.
    """

    call: str | bytes
    word: CallWord
    argument: int | Literal[""] = ""


class Admission(NamedTuple):
    """`shut`: the breaker is not closed. `turns`: jobs that may go now."""

    shut: bool
    answers: list[Answer]
    turns: list[Turn]


class Reported(NamedTuple):
    """`shut`: the breaker is not closed. `turns`: jobs that may go now."""

    shut: bool
    turns: list[Turn]


class Entered(NamedTuple):
    """Whether a call of an API key may begin; if not, what is used up and for how long at least."""

    outcome: EnterOutcome
    wait_s: float


async def limit_admit(
    redis: Redis, keys: LimitKeys, limits: Limits, questions: Sequence[Question]
) -> Admission:
    """Ask for calls, in the order of the jobs' places. See `limit_admit.lua`."""
    args = limits._arguments()
    for question in questions:
        args += question
    shut, answers, called = await _limit_admit(redis, keys, args)
    return Admission(bool(shut), [_answer(answer) for answer in answers], _turns(called))


async def limit_report(
    redis: Redis, keys: LimitKeys, limits: Limits, reports: Sequence[CallReport]
) -> Reported:
    """Report the states of calls, if any; see `limit_report.lua`."""
    args = limits._arguments()
    for report in reports:
        args += report
    shut, called = await _limit_report(redis, keys, args)
    return Reported(bool(shut), _turns(called))


async def apikey_enter(
    redis: Redis,
    key_id: str,
    call_id: str,
    *,
    interval_ms: float,
    burst: int,
    concurrency: int,
    lease_s: float,
) -> Entered:
    """Begin a call of an API key. See `apikey_enter.lua`."""
    args: list[Argument] = [interval_ms, burst, concurrency, milliseconds(lease_s), call_id]
    outcome, wait_ms = await _apikey_enter(redis, api_key_use(key_id), args)
    return Entered(outcome.decode(), wait_ms / 1000)


def _answer(reply: bytes) -> Answer:
    if reply == b"go":
        return Answer("go")
    return Answer("probe") if reply == b"probe" else Answer("wait", float(reply))


def _turns(called: Sequence[Any]) -> list[Turn]:
    return [Turn(*fields) for fields in zip(*[iter(called)] * len(Turn._fields), strict=True)]
