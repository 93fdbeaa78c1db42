"""The types of `@darkq/client`, by TypeScript's compiler in its strict mode."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from integration.gateway.clients import environments
from support.repository import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FOLDER = ROOT / "clients/js"
DEADLINE_S = 120
BUNDLER = ["--module", "esnext", "--moduleResolution", "bundler"]


@pytest.mark.parametrize("options", [[], BUNDLER], ids=["node", "bundler"])
def test_typed_caller_compiles_and_its_errors_are_found(options: list[str]) -> None:
    """Red if the types reject what a caller may write, or accept what `types.check.ts` forbids."""
    script = json.loads((FOLDER / "package.json").read_text())["scripts"]["types"]
    compiler, *arguments = shlex.split(script)
    assert compiler == "tsc"
    assert "--strict" in arguments
    command = [*environments.typescript(), *arguments, *options]
    done = subprocess.run(
        command, cwd=FOLDER, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
