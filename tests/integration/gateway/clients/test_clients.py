"""Real clients, unchanged, in environments of their own, with the gateway as their base URL."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from integration.gateway.clients import environments
from support.clients import PROGRAMS_RUN, Program

# Environments are installed at their first use, and other tests run beside these.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROGRAM_DEADLINE_S = 240.0
# Some clients report to, or ask, services of their makers.
AT_HOME = {
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}


@pytest.mark.parametrize("program", PROGRAMS_RUN, ids=lambda program: program.file)
async def test_client_does_what_its_row_says(
    program: Program, base_url: str, tmp_path: Path
) -> None:
    """Red if a case fails, or if docs/compatibility.md lists a case that did not run."""
    command = await asyncio.to_thread(environments.command, program.environment, program.file)
    reports, rest = await run(command, base_url, tmp_path)
    problems = [f"{each['case']}:\n{each['problem']}" for each in reports if each["problem"]]
    assert not problems, "\n".join(problems)
    assert [each["case"] for each in reports] == program.cases, rest


async def run(command: list[str], base_url: str, folder: Path) -> tuple[list[dict[str, str]], str]:
    """Run a program to its end; return its reports, and what it wrote to stderr."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            **AT_HOME,
            "HOME": str(folder),
            "LLM_USER_PATH": str(folder / "llm"),
            "OPENAI_BASE_URL": base_url,
            "OPENAI_API_KEY": "none",
            "PYTHONPYCACHEPREFIX": str(environments.HOME / "pycache"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROGRAM_DEADLINE_S):
            printed, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, errors.decode()[-4000:]
    lines = [line for line in printed.splitlines() if line.startswith(b'{"case"')]
    return [json.loads(line) for line in lines], errors.decode()[-4000:]
