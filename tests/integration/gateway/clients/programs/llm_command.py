"""The command `llm`, with models in its file of OpenAI-compatible ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from reporting import BASE_URL, REAL, case, equal, run

FOLDER = Path(os.environ["LLM_USER_PATH"])
MODEL = """
- model_id: {name}
  model_name: {name}
  api_base: "{url}"
  supports_schema: true
  supports_tools: true
"""


def llm(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


FOLDER.mkdir(parents=True, exist_ok=True)
NAMES = (REAL, "scripted-text", "scripted-tools")
(FOLDER / "extra-openai-models.yaml").write_text(
    "".join(MODEL.format(name=name, url=BASE_URL) for name in NAMES)
)


@case("`llm --schema`, real model")
def schema() -> None:
    wanted = {
        "type": "object",
        "properties": {"sky": {"enum": ["clear", "cloudy"]}, "windy": {"type": "boolean"}},
        "required": ["sky", "windy"],
        "additionalProperties": False,
    }
    for options in ([], ["--no-stream"]):
        printed = llm("-m", REAL, *options, "--schema", json.dumps(wanted), "The weather?")
        equal(set(json.loads(printed)), {"sky", "windy"})


@case("`llm -T`: a tool that `llm` runs")
def tool() -> None:
    printed = llm("-m", "scripted-tools", "-T", "llm_version", "Which version?")
    equal(printed.strip(), f"The tool said: {llm('--version').split()[-1]}")


@case("`llm -c`: a second turn")
def second_turn() -> None:
    llm("-m", "scripted-text", "One")
    equal(llm("-c", "Two").strip(), "3 messages, the last one: Two")


run()
