"""Logging: one log record per event, as text for people or as JSON for programs.

    2026-11-28T16:28:05.123Z INFO darkq.worker: job ended job=0-5f0c… attempt=1 outcome=completed
    {"ts":"2026-11-28T16:28:05.123Z","level":"info","logger":"darkq.worker","event":"job ended",…}

A log event is a fixed phrase with fields: `logger.info(LogEvent("job ended", job=…))`. Its `str` is
the same text, so that other formatters can be used. A log record is always one line: unprintable
characters are escaped. Exceptions are logged with their types and source positions, and without
their texts, which may quote a prompt. Python's warnings are logged once per position, also without
their texts.
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
    """A fixed phrase and its fields. Fields that are None are left out."""

    __slots__ = ("event", "facts")

    def __init__(self, event: str, /, **facts: Any) -> None:
        self.event = event
        self.facts = {name: value for name, value in facts.items() if value is not None}

    def __str__(self) -> str:
        return _format(self.event, self.facts)


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Log to stderr, with Python's warnings. If there are handlers already, none is added."""
    _log_warnings()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATTERS[log_format]())
    logging.basicConfig(level=level, handlers=[handler])


class Console(logging.Formatter):
    """Text for people: time, level, logger, event, `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        event, facts = _split(record)
        return f"{_format_time(record)} {record.levelname} {record.name}: {_format(event, facts)}"


class Json(logging.Formatter):
    """One JSON object, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        event, facts = _split(record)
        head = {
            "ts": _format_time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
        }
        return _to_json(head | facts)


FORMATTERS: dict[LogFormat, type[logging.Formatter]] = {"console": Console, "json": Json}


def describe_error(error: BaseException) -> str:
    """Return the type of an exception and its source positions, innermost first; not its text."""
    parts = []
    for each in _chain(error):
        frames = list(traceback.walk_tb(each.__traceback__))[-_MAX_FRAMES:]
        codes = [(frame.f_code, line) for frame, line in reversed(frames)]
        places = (f"{code.co_filename}:{line} in {code.co_name}" for code, line in codes)
        parts.append(f"{type(each).__name__} at {', '.join(places) or '?'}")
    return " from ".join(parts)


def _log_warnings() -> None:
    """Log Python's warnings without their texts, which may quote a client's data."""
    shown = set[tuple[str, str, int]]()  # bounded by the positions in the code

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
    # The filter "default" would keep each text in a `__warningregistry__` permanently.
    warnings.simplefilter("always", append=True)


def _format_time(record: logging.LogRecord) -> str:
    """Format the time as RFC 3339 in UTC, with milliseconds."""
    return f"{_format_second(int(record.created))}.{int(record.created % 1 * 1000):03d}Z"


@lru_cache(maxsize=4)
def _format_second(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))


def _split(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    if isinstance(record.msg, LogEvent):
        event, facts = record.msg.event, record.msg.facts
    else:
        event, facts = _read_message(record), {}
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        facts = {**facts, "exception": describe_error(error)}
    return event, {**facts, **current_ids()}


def _read_message(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception:  # its arguments do not match the format: log the format
        return str(record.msg)
    # With an exception, asyncio appends reprs on further lines, which contain the exception's text.
    return message.partition("\n")[0] if record.exc_info else message


def _format(event: str, facts: dict[str, Any]) -> str:
    text = " ".join((event, *(f"{name}={_format_value(value)}" for name, value in facts.items())))
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _format_value(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    text = value if isinstance(value, str) else _to_json(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, then its cause or the first of its group, and so on."""
    each: BaseException | None = error
    for _ in range(_MAX_ERRORS):
        if each is None:
            return
        yield each
        if isinstance(each, BaseExceptionGroup):
            each = each.exceptions[0]
        else:
            each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
