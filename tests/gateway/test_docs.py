"""The commands of docs/gateway.md, as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.http_api import Api

DOCS = Path(__file__).parents[2] / "docs/gateway.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_commands_do_what_they_say(api: Api, make_key: Any, working: Any) -> None:
    await working()
    (script,) = re.findall(r"```bash\n(.*?)```", DOCS.read_text(), re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-eu", "-c", script),
        env={"PATH": os.environ["PATH"], "url": api.url, "key": await make_key()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, errors) == (0, b"")
    assert output.count(b'"type":"completed"') == 2
    assert output.count(b'"type":"started"') == 1
    assert b'"finish_reason":"stop"' in output
    assert b'"job_ids":[' in output
