"""The README's first snippet, as it stands there, against a worker and a local DarkAI."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from darkq import Client, Settings
from darkq_local.local_darkai import LocalDarkAI

README = Path(__file__).parents[2] / "README.md"


async def test_the_first_snippet_runs_and_prints_what_it_says(
    client: Client,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    tmp_path: Path,
) -> None:
    snippet = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    settings = make_settings(darkai_url=(await start_darkai()).url)
    start_worker(settings)
    assert settings.redis_url is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        snippet,
        env={**os.environ, "DARKQ_REDIS_URL": settings.redis_url.get_secret_value()},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    job_id, text = output.decode().split("\n", 1)
    assert process.returncode == 0
    assert text == (await client.job(job_id).result()).text != ""


async def test_the_snippet_about_batches_runs(
    client: Client,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (snippet,) = (text for text in snippets if "client.batch(" in text)
    start_worker(make_settings(darkai_url=(await start_darkai(chunks=3)).url))
    code = "async def main(client, rows):\n" + textwrap.indent(snippet, "    ")
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    await namespace["main"](client, [{"prompt": "one"}, {"prompt": "two"}])
    batch_id, *lines = capsys.readouterr().out.splitlines()
    assert (await client.batch(batch_id).status()).state == "completed"
    assert sorted(line.split()[:2] for line in lines) == [["1", "completed"], ["2", "completed"]]
