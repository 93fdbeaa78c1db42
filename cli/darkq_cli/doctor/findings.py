"""What a check finds, and how checks are named and run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from darkq import DarkqError
from darkq.redis.pool import brief

T = TypeVar("T")

Verdict: TypeAlias = Literal["ok", "warning", "problem", "skipped"]

_WORST_FIRST: tuple[Verdict, ...] = ("problem", "warning", "ok", "skipped")
_NOT_THERE = ("unknown command", "unknown subcommand", "NOPERM")


class Answer(NamedTuple):
    """A check's verdict, what it found, and what to do about that."""

    verdict: Verdict
    found: str
    do: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with the check's name. `of` is what was looked at, where there may be several."""

    check: str
    of: str = ""
    verdict: Verdict
    found: str
    do: str = ""


class Refused(Exception):
    """The server does not tell. The text says what was asked."""


def ok(found: str) -> Answer:
    return Answer("ok", found)


def warning(found: str, do: str) -> Answer:
    return Answer("warning", found, do)


def problem(found: str, do: str) -> Answer:
    return Answer("problem", found, do)


def skipped(found: str, do: str = "") -> Answer:
    return Answer("skipped", found, do)


def worst_of(answers: list[Answer], *, otherwise: str) -> Answer:
    """Put what was found together under the worst verdict; ok with these words if it is nothing."""
    if not answers:
        return ok(otherwise)
    answers = sorted(answers, key=lambda answer: _WORST_FIRST.index(answer.verdict))
    mends = dict.fromkeys(answer.do for answer in answers if answer.do)
    found = "; ".join(answer.found for answer in answers)
    return Answer(answers[0].verdict, found, "; ".join(mends))


class _Check(NamedTuple, Generic[T]):
    name: str
    by_hand: str
    ask: Callable[[T], Awaitable[Answer]]


class Checks(Generic[T]):
    """Checks of one kind of thing, in the order in which they are run."""

    def __init__(self, *parts: Checks[T]) -> None:
        self._checks: list[_Check[T]] = [check for part in parts for check in part._checks]

    @property
    def names(self) -> list[str]:
        return [check.name for check in self._checks]

    def check(
        self, name: str, *, by_hand: str = ""
    ) -> Callable[[Callable[[T], Awaitable[Answer]]], Callable[[T], Awaitable[Answer]]]:
        """Add a function as a check. `by_hand` is what to look at where it may not ask."""

        def add(ask: Callable[[T], Awaitable[Answer]]) -> Callable[[T], Awaitable[Answer]]:
            self._checks.append(_Check(name, by_hand, ask))
            return ask

        return add

    async def run(self, subject: T, of: str = "") -> AsyncIterator[Finding]:
        """Yield what each check finds."""
        for check in self._checks:
            yield finding(check.name, await _answer(check, subject), of)

    def skip(self, reason: str, of: str = "") -> Iterator[Finding]:
        """Yield that none was run, and why."""
        for check in self._checks:
            yield finding(check.name, skipped(reason), of)


def finding(check: str, answer: Answer, of: str = "") -> Finding:
    """Give an answer its name."""
    return Finding(check=check, of=of, verdict=answer.verdict, found=answer.found, do=answer.do)


async def _answer(check: _Check[T], subject: T) -> Answer:
    by_hand = f"Look by hand: {check.by_hand}" if check.by_hand else ""
    try:
        return await check.ask(subject)
    except Refused as error:
        return skipped(f"it is not told: {error}", by_hand)
    except (RedisError, DarkqError, OSError) as error:
        if is_refusal(error):
            return skipped(f"it is not told: {brief(error)}", by_hand)
        words = str(error) if isinstance(error, DarkqError) else brief(error)
        return problem(f"it could not be looked at: {words}", by_hand)


def is_refusal(error: BaseException) -> bool:
    """Tell whether a server does not let us ask, or does not know the question."""
    if isinstance(error, NoPermissionError):
        return True
    return isinstance(error, ResponseError | DarkqError) and any(
        words in str(error) for words in _NOT_THERE
    )
