"""What a log line looks like, whatever is in it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq.telemetry.logging import FORMATTERS, LogEvent, LogFormat, describe_error

from .conftest import Traced

FORMATS: list[LogFormat] = ["console", "json"]
TS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def line(log_format: LogFormat, msg: object, *args: object, exc_info: Any = None) -> str:
    record = logging.LogRecord("darkq.test", logging.WARNING, "f", 1, msg, args, exc_info)
    return FORMATTERS[log_format]().format(record)


def failing(text: str) -> Any:
    """Raise an error from an error, and return what `logging` knows of it."""
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise ValueError(text) from error
    except ValueError:
        return sys.exc_info()


def test_a_line_for_people() -> None:
    said = LogEvent("job ended", job="0-5f", chunks=3, waited_s=0.25, of="a b", no=None, ok=True)
    assert re.fullmatch(
        rf'{TS} WARNING darkq\.test: job ended job=0-5f chunks=3 waited_s=0\.25 of="a b" ok=true',
        line("console", said),
    )


def test_a_line_for_programs() -> None:
    said = LogEvent("job ended", job="0-5f", chunks=3, waited_s=0.25, no=None)
    told = json.loads(line("json", said))
    assert re.fullmatch(TS, told.pop("ts"))
    assert told == {
        "level": "warning", "logger": "darkq.test", "event": "job ended",
        "job": "0-5f", "chunks": 3, "waited_s": 0.25,
    }  # fmt: skip


def test_in_a_format_of_anybody_the_facts_are_there() -> None:
    record = logging.LogRecord("n", 20, "f", 1, LogEvent("job ended", model="a\nb"), (), None)
    assert logging.Formatter("%(message)s").format(record) == r'job ended model="a\nb"'


def test_other_libraries_lines_have_their_arguments() -> None:
    assert json.loads(line("json", "%d of %s", 1, "x"))["event"] == "1 of x"
    assert line("console", "%d of %s", 1, "x").endswith(": 1 of x")
    assert line("console", "%d of %s", "one").endswith(": %d of %s")


@pytest.mark.parametrize("log_format", FORMATS)
@given(text=st.text(st.characters(), min_size=1), name=st.sampled_from(["model", "error"]))
def test_whatever_is_in_it_a_line_is_one_line(log_format: LogFormat, text: str, name: str) -> None:
    for said in (LogEvent("job ended", **{name: text}), LogEvent(text), text.replace("%", "")):
        told = line(log_format, said)
        assert told.isprintable()
        assert len(told.splitlines()) == 1
        if log_format == "json":
            assert json.loads(told)


@pytest.mark.parametrize(
    "text", ["x\n2026-11-28T16:28:05.123Z INFO darkq: forged", "\x1b[2J", "\u2028", "\x9b"]
)
@pytest.mark.parametrize("log_format", FORMATS)
def test_no_line_can_be_forged(log_format: LogFormat, text: str) -> None:
    told = line(log_format, LogEvent("job ended", model=text, key="a b=c"), exc_info=failing(text))
    assert told.isprintable()
    if log_format == "json":
        assert json.loads(told)["model"] == text
    else:
        assert told.count(" INFO ") == text.count(" INFO ")
        assert ' key="a b=c"' in told


@pytest.mark.parametrize("log_format", FORMATS)
def test_an_exception_is_a_field_without_its_text(log_format: LogFormat) -> None:
    told = line(log_format, "it broke", exc_info=failing("canary"))
    assert "canary" not in told
    assert re.search(
        r"ValueError at \S+test_lines.py:\d+ in failing from KeyError at \S+:\d+ in f", told
    )
    if log_format == "json":
        assert json.loads(told)["event"] == "it broke"


def test_an_exception_is_bounded() -> None:
    def deeper(levels: int) -> None:
        if not levels:
            raise ExceptionGroup("canary", [OSError("canary")])
        deeper(levels - 1)

    try:
        deeper(500)
    except ExceptionGroup as error:
        told = describe_error(error)
    assert told.count(" in deeper") == 12
    assert told.endswith(" from OSError at ?")
    assert "canary" not in told


@pytest.mark.parametrize("log_format", FORMATS)
async def test_what_asyncio_says_of_a_forgotten_error_quotes_nothing(
    log_format: LogFormat, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise RuntimeError("canary")

    task = asyncio.create_task(broken())
    await asyncio.wait([task])
    del task
    (record,) = [record for record in caplog.records if record.name == "asyncio"]
    told = FORMATTERS[log_format]().format(record)
    assert "Task exception was never retrieved" in told
    assert "RuntimeError at " in told
    assert "canary" not in told
    caplog.clear()


def test_within_a_span_a_line_names_it(traced: Traced) -> None:
    with traced.tracer.start_as_current_span("work") as span:
        told = json.loads(line("json", LogEvent("job ended")))
    context = span.get_span_context()
    assert int(told["trace_id"], 16) == context.trace_id
    assert int(told["span_id"], 16) == context.span_id
    assert "trace_id" not in json.loads(line("json", LogEvent("job ended")))


WARNING_PROGRAM = """
import sys, warnings
from darkq.telemetry.logging import configure_logging
configure_logging(sys.argv[1], "DEBUG")
kept = {}
for n in range(500):
    warnings.warn(f"CANARY {n}", stacklevel=1)
    warnings.warn_explicit(f"CANARY {n}", RuntimeWarning, "library.py", 7, registry=kept)
kept |= globals().get("__warningregistry__", {})
print(sum("CANARY" in str(key) for key in kept))
"""


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_warning_is_logged_without_its_text_and_not_kept(log_format: LogFormat) -> None:
    """Red with `logging.captureWarnings`: it logs the text, and Python keeps each one for good."""
    ran = subprocess.run(
        [sys.executable, "-c", WARNING_PROGRAM, log_format],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert "CANARY" not in ran.stderr
    told = ran.stderr.splitlines()
    assert len(told) == 2, "once for each place"
    assert "UserWarning" in told[0]
    assert "RuntimeWarning" in told[1]
    assert "library.py:7" in told[1]
    assert ran.stdout.strip() == "0", "texts kept in memory"
