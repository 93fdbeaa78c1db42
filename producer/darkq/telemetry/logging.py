"""What a process says of itself: one line for each thing that happens, for people or for programs.

    2026-11-28T16:28:05.123Z INFO darkq.worker: job ended job=0-5f0c… attempt=1 outcome=completed
    {"ts":"2026-11-28T16:28:05.123Z","level":"info","logger":"darkq.worker","event":"job ended",…}

Facts stand beside what happened: `logger.info(LogLine("job ended", job=…))`, which reads like that
in anybody's format. A line is one line whatever is in it: what cannot be printed is escaped. Of an
exception its type and its places are told, and never its text, which may quote a prompt. Of one of
Python's warnings its category and its place are told, once.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, TextIO, TypeAlias

from darkq.telemetry.tracing import current_ids

LogFormat: TypeAlias = Literal["console", "json"]

_warnings_logger = logging.getLogger("py.warnings")

_MAX_FRAMES = 12
_MAX_ERRORS = 8
_BARE = re.compile(r"[\w.:/@%+,{}*-]+")
_to_json = json.JSONEncoder(separators=(",", ":"), default=str).encode  # all of it in ASCII


class LogEvent:
    """What happened, in the same words each time, and the facts of this time; None is no fact."""

    __slots__ = ("event", "facts")

    def __init__(self, event: str, /, **facts: Any) -> None:
        self.event = event
        self.facts = {name: value for name, value in facts.items() if value is not None}

    def __str__(self) -> str:
        return _with(self.event, self.facts)


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Log on stderr, Python's warnings included. Handlers that a program already has stay alone."""
    _log_warnings()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATTERS[log_format]())
    logging.basicConfig(level=level, handlers=[handler])


class Console(logging.Formatter):
    """A line for people: the time, the level, who says what, `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        event, facts = _parts(record)
        return f"{_time(record)} {record.levelname} {record.name}: {_with(event, facts)}"


class Json(logging.Formatter):
    """A line for programs: one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        event, facts = _parts(record)
        head = {
            "ts": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
        }
        return _to_json(head | facts)


FORMATTERS: dict[LogFormat, type[logging.Formatter]] = {"console": Console, "json": Json}


def describe_error(error: BaseException) -> str:
    """Tell an exception without its text: its type, and where it came by, the innermost first."""
    return " from ".join(map(_one, _chain(error)))


def _log_warnings() -> None:
    """Log Python's warnings without their texts, which may quote what a client has sent."""
    shown = set[tuple[str, str, int]]()  # as many as there are places in the code

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        where = (category.__name__, filename, lineno)
        if where not in shown:
            shown.add(where)
            place = f"{filename}:{lineno}"
            _warnings_logger.warning(LogEvent("python warning", category=where[0], at=place))

    warnings.showwarning = show
    # "default", what applies otherwise, would keep each text for good in a `__warningregistry__`.
    warnings.simplefilter("always", append=True)


def _time(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return f"{_second(int(record.created))}.{int(record.created % 1 * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))


def _parts(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    if isinstance(record.msg, LogEvent):
        event, facts = record.msg.event, record.msg.facts
    else:
        event, facts = _message(record), {}
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        facts = {**facts, "exception": describe_error(error)}
    return event, {**facts, **current_ids()}


def _message(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception:  # its arguments do not fit, and the line is still to be told
        return str(record.msg)
    # Where there is an exception, asyncio goes on with reprs, and so with the exception's text.
    return message.partition("\n")[0] if record.exc_info else message


def _with(event: str, facts: dict[str, Any]) -> str:
    text = " ".join((event, *(f"{name}={_word(value)}" for name, value in facts.items())))
    return text if text.isprintable() else "".join(map(_escaped, text))


def _word(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    text = value if isinstance(value, str) else _to_json(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _escaped(char: str) -> str:
    return char if char.isprintable() else ascii(char)[1:-1]


def _one(error: BaseException) -> str:
    frames = list(traceback.walk_tb(error.__traceback__))[-_MAX_FRAMES:]
    places = (f"{f.f_code.co_filename}:{line} in {f.f_code.co_name}" for f, line in frames[::-1])
    return f"{type(error).__name__} at {', '.join(places) or '?'}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it came from: its cause, or the first of its group."""
    each: BaseException | None = error
    for _ in range(_MAX_ERRORS):
        if each is None:
            return
        yield each
        if isinstance(each, BaseExceptionGroup):
            each = each.exceptions[0]
        else:
            each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
