"""The snippets of `docs/openai.md`, one after the other, as they stand there."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from darkq import Client
from darkq_local.local_darkai import LocalDarkAI
from support.http_api import Api

DOCS = Path(__file__).parents[3] / "docs/openai.md"
REQUEST = '{"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages": [%s]}}\n'
MESSAGE = '{"role": "user", "content": "Hi"}'


async def test_the_snippets_run_and_print_the_answer(
    api: Api,
    client: Client,
    working: Callable[..., Awaitable[LocalDarkAI]],
    tmp_path: Path,
) -> None:
    await working()
    (tmp_path / "requests.jsonl").write_text(REQUEST % MESSAGE)
    snippets = "\n".join(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c"),
        snippets.replace("http://127.0.0.1:8080", api.url),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 0, err.decode()
    first, rest = out.decode().split("\n", 1)
    jobs = [client.job(job.job_id) for job in await client.jobs()]
    assert {first, rest.strip()} == {(await job.result(timeout_s=5)).text for job in jobs} != {""}
