"""No prompt, text, key or password in any log line, at any level, in any format."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from darkq import Client, JobFailed, Settings
from darkq.telemetry.logging import FORMATTERS
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.attempts import generate as generate_module

PROMPT = "canary-prompt-5f3a"
PROXY_PASSWORD = "canary-proxy-9c1d"
METADATA = "canary-metadata-77\n2026-11-28T00:00:00.000Z INFO forged"

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
MakeSettings = Callable[..., Settings]

FAULTS = ["", "truncate=2", "error=1", "html=502", "malformed", "429", "reset=1", "empty", "cr"]


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    for name in ("arq", "darkq", "aiohttp", "asyncio", "redis"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


async def test_no_secret_is_logged(
    everything_logged: pytest.LogCaptureFixture,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: Callable[[Settings], asyncio.Task[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    darkai = await start_darkai(*(Fault.parse(fault) for fault in FAULTS), chunks=10)
    settings = make_settings(darkai_url=darkai.url)
    texts: set[str] = set()
    failures: list[str] = []
    start_worker(settings)
    async with Client(settings=settings) as client:
        for _ in FAULTS:
            job = await client.enqueue(PROMPT, tries=1, metadata={"user": METADATA})
            try:
                texts.add((await job.result(timeout_s=10)).text)
            except JobFailed as error:
                failures.append(str(error))
        assert PROMPT not in "".join(failures)
        nowhere = f"http://user:{PROXY_PASSWORD}@127.0.0.1:9"
        with pytest.raises(JobFailed) as caught:
            await (await client.enqueue(PROMPT, tries=1, proxy=nowhere)).result(timeout_s=10)
        assert PROXY_PASSWORD not in str(caught.value)

        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError(f"a bug that quotes {PROMPT}")

        monkeypatch.setattr(generate_module, "_copy", broken)
        with pytest.raises(JobFailed, match="RuntimeError") as caught:
            await (await client.enqueue(PROMPT, tries=1)).result(timeout_s=10)
        assert PROMPT not in str(caught.value)
    assert len(texts) == 1, "some answers must have been completed, all alike"
    lines = [
        FORMATTERS[log_format]().format(record)
        for record in everything_logged.records
        for log_format in FORMATTERS
    ]
    assert all(line.isprintable() for line in lines)
    log = everything_logged.text + "\n".join(lines)
    assert "completed" in log
    assert "RuntimeError" in log
    for secret in (PROMPT, PROXY_PASSWORD, "canary-metadata", "forged", *texts):
        assert secret not in log
    for text in texts:
        assert not any(piece in log for piece in text.split(". ") if len(piece) > 12)
