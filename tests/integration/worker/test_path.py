"""The visible path of an attempt: from its claim to its settlement in at most ten files.

ARCHITECTURE.md and the head of `loop/worker.py` list them. Here a job runs in this process, and the
interpreter reports each function that is called.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

import darkq_worker
from darkq import Client, Settings
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.loop import worker as loop

PACKAGE = Path(darkq_worker.__file__ or "").parent
ARCHITECTURE = Path(__file__).parents[3] / "ARCHITECTURE.md"
ROW = re.compile(r"^ +(\w+(?:/\w+)?)  +\S", re.M)

# What else runs then: the loop, what operators see, the first read of a connection, batches over
# files. The modules of one upstream are the far end of the path, as Redis is.
BESIDE = {
    *("main", "wiring", "redis_checks", "outage_log"),
    *("loop/worker", "loop/heartbeat", "loop/presence"),
    *("attempts/telemetry", "writing/resuming", "limits/promotion"),
    *("files/runner", "files/run", "files/input"),
}


def listed_in(text: str) -> list[str]:
    """The files in the list that follows the words for the path."""
    _, _, rest = text.partition("from its claim to its settlement")
    return ROW.findall(rest.split("\n\n")[1])


@contextmanager
def recording() -> Iterator[set[str]]:
    """Collect the modules of the worker in which any function runs."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(PACKAGE)):
            seen.add(str(Path(name).relative_to(PACKAGE).with_suffix("")))

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def test_both_lists_of_the_path_are_the_same_ten_files() -> None:
    """Red if a file of the path is renamed, or is missing in one of the lists."""
    listed = listed_in(loop.__doc__ or "")
    assert listed == listed_in(ARCHITECTURE.read_text())
    assert len(listed) <= 10
    assert all((PACKAGE / f"{name}.py").exists() for name in listed)


@pytest.mark.parametrize("prompt", ["hello", "[fault: status=503] hello"])
async def test_a_job_passes_through_the_listed_files_and_no_others(
    client: Client,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], object],
    prompt: str,
) -> None:
    """Red if another file joins the path, or a job no longer passes through one of the ten."""
    darkai = await start_darkai(chunks=3)
    settings = make_settings(darkai_url=darkai.url, darkai_concurrency=5, retry_base_s=0.01)
    with recording() as seen:
        start_worker(settings)
        job = await client.enqueue(prompt, tries=1)
        async for _ in job.events():
            pass
    upstream = {name for name in seen if name.startswith("upstreams/")} - {"upstreams/base"}
    listed = set(listed_in(loop.__doc__ or ""))
    assert seen - upstream - BESIDE == (listed if prompt == "hello" else listed - {"pieces"})
