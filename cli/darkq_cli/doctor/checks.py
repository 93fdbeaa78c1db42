"""The result of a check, and lists of checks that are run in order."""

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
_REFUSALS = ("unknown command", "unknown subcommand", "NOPERM")


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict of a check, what it has found, and what to do about that.

    `check` is its name. `of` names the server or the upstream, if there can be several.
    """

    check: str = ""
    of: str = ""
    verdict: Verdict
    found: str
    do: str = ""

    def label(self, check: str, of: str = "") -> CheckResult:
        """Return the result with the name of its check."""
        return msgspec.structs.replace(self, check=check, of=of)


class Refused(Exception):
    """The server refuses a question or does not know it. The text names the question."""


def ok(found: str) -> CheckResult:
    return CheckResult(verdict="ok", found=found)


def warning(found: str, do: str) -> CheckResult:
    return CheckResult(verdict="warning", found=found, do=do)


def problem(found: str, do: str) -> CheckResult:
    return CheckResult(verdict="problem", found=found, do=do)


def skipped(found: str, do: str = "") -> CheckResult:
    return CheckResult(verdict="skipped", found=found, do=do)


class Findings(list[CheckResult]):
    """What one check has found so far."""

    def problem(self, found: str, do: str) -> None:
        self.append(problem(found, do))

    def warning(self, found: str, do: str) -> None:
        self.append(warning(found, do))

    def combine(self, *, otherwise: str = "") -> CheckResult:
        """Return one result with the worst verdict; without any, ok with `otherwise`."""
        if not self:
            return ok(otherwise)
        results = sorted(self, key=lambda result: _WORST_FIRST.index(result.verdict))
        actions = dict.fromkeys(result.do for result in results if result.do)
        found = "; ".join(result.found for result in results)
        return CheckResult(verdict=results[0].verdict, found=found, do="; ".join(actions))


Run: TypeAlias = Callable[[T], Awaitable[CheckResult]]


class _Check(NamedTuple, Generic[T]):
    name: str
    by_hand: str
    run: Run[T]


class Checks(Generic[T]):
    """Checks of one kind of subject, in the order in which they run."""

    def __init__(self, *parts: Checks[T]) -> None:
        self._checks: list[_Check[T]] = [check for part in parts for check in part._checks]

    @property
    def names(self) -> list[str]:
        return [check.name for check in self._checks]

    def check(self, name: str, *, by_hand: str = "") -> Callable[[Run[T]], Run[T]]:
        """Add a function as a check. `by_hand` says how to check manually if it is refused."""

        def add(run: Run[T]) -> Run[T]:
            self._checks.append(_Check(name, by_hand, run))
            return run

        return add

    async def run(self, subject: T, of: str = "") -> AsyncIterator[CheckResult]:
        """Run the checks, and yield their results."""
        for check in self._checks:
            yield (await _run(check, subject)).label(check.name, of)

    def skip(self, reason: str, of: str = "") -> Iterator[CheckResult]:
        """Yield a skipped result for each check."""
        for check in self._checks:
            yield skipped(reason).label(check.name, of)


async def _run(check: _Check[T], subject: T) -> CheckResult:
    by_hand = f"Check by hand: {check.by_hand}" if check.by_hand else ""
    try:
        return await check.run(subject)
    except Refused as error:
        return skipped(f"the server does not tell: {error}", by_hand)
    except (RedisError, DarkqError, OSError) as error:
        if is_refusal(error):
            return skipped(f"the server does not tell: {brief(error)}", by_hand)
        reason = str(error) if isinstance(error, DarkqError) else brief(error)
        return problem(f"the check failed: {reason}", by_hand)


def is_refusal(error: BaseException) -> bool:
    """Tell whether a server forbids a command, or does not know it."""
    if isinstance(error, NoPermissionError):
        return True
    return isinstance(error, ResponseError | DarkqError) and any(
        words in str(error) for words in _REFUSALS
    )
