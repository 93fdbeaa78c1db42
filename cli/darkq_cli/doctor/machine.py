"""Checks of the settings and of this machine."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from pydantic_settings import DotEnvSettingsSource

from darkq import Settings
from darkq.errors import FileNotFound, FileStoreUnavailable
from darkq.serving.files import Files, local_folder, new_file_id
from darkq.settings.private_files import is_open_to_others
from darkq.settings.upstreams import DARKAI
from darkq_cli.doctor.findings import Answer, Checks, ok, problem, skipped, warning, worst_of
from darkq_cli.doctor.keeping import megabytes

_PREFIX = "DARKQ_"
_OF_OTHERS = {"DARKQ_REDIS_PASSWORD"}  # docker-compose.yml's own, up to version 0.1
_SPARE_FILES = 64
_LITTLE_BYTES = 1 << 30
_TOO_LITTLE_BYTES = 100 << 20

MACHINE: Checks[Settings] = Checks()


@MACHINE.check("configuration")
async def configuration(settings: Settings) -> Answer:
    upstreams = [DARKAI] * settings.uses_darkai + sorted(settings.upstreams)
    answers = []
    if not upstreams:
        answers.append(
            problem("there is no upstream", "Set DARKQ_DARKAI_URL or DARKQ_UPSTREAMS__<NAME>__URL")
        )
    elif settings.default_upstream not in (None, *upstreams):
        found = f"DARKQ_DEFAULT_UPSTREAM is {settings.default_upstream}, which is no upstream"
        answers.append(problem(found, f"Name one of: {', '.join(upstreams)}"))
    if settings.worker_reserved_interactive >= settings.worker_jobs:
        answers.append(
            problem(
                "all slots of a worker are reserved for interactive jobs: no worker starts",
                f"DARKQ_WORKER_RESERVED_INTERACTIVE below DARKQ_WORKER_JOBS={settings.worker_jobs}",
            )
        )
    if settings.redis_timeout_s >= settings.worker_lease_s:
        answers.append(
            problem(
                "DARKQ_REDIS_TIMEOUT_S is not below DARKQ_WORKER_LEASE_S: no worker starts, since "
                "one silent connection would cost it all its leases",
                f"DARKQ_REDIS_TIMEOUT_S={settings.worker_lease_s * 2 / 3:g}",
            )
        )
    for low, high in (
        ("retry_base_s", "retry_max_s"),
        ("breaker_cooldown_s", "breaker_cooldown_max_s"),
    ):
        if getattr(settings, low) > getattr(settings, high):
            names = f"DARKQ_{low.upper()} is above DARKQ_{high.upper()}"
            answers.append(warning(names, f"Raise DARKQ_{high.upper()}"))
    given = len(settings.model_fields_set)
    return worst_of(answers, otherwise=f"it loads; {given} given, the rest are defaults")


@MACHINE.check("unknown settings")
async def unknown_settings(settings: Settings) -> Answer:
    known = {f"{_PREFIX}{name.upper()}" for name in type(settings).model_fields}
    set_here = {*(name.upper() for name in os.environ), *_of_env_file(settings)}
    unknown = sorted(
        name
        for name in set_here - known - _OF_OTHERS
        if name.startswith(_PREFIX) and not name.startswith(f"{_PREFIX}UPSTREAMS__")
    )
    if not unknown:
        return ok("every variable DARKQ_... is a setting")
    return warning(
        f"no setting, so nothing reads it: {', '.join(unknown)}",
        "; ".join(_meant(name, known) for name in unknown),
    )


def _of_env_file(settings: Settings) -> Iterable[str]:
    file = DotEnvSettingsSource(type(settings), env_prefix="", case_sensitive=False)
    return (name.upper() for name in file.env_vars)


def _meant(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"Write {near[0]}" if near else f"Take {name} away; .env.example has all there are"


@MACHINE.check("open files")
async def open_files(settings: Settings) -> Answer:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return ok("as many as anybody wants")
    pool = settings.redis_connections
    worker = settings.worker_jobs + 2 * pool + _SPARE_FILES
    gateway = settings.gateway_max_connections + pool + _SPARE_FILES
    found = f"{most:,} (ulimit -n)"
    do = f"ulimit -n {max(worker, gateway)} before it starts; LimitNOFILE= of systemd, ulimits: of "
    do += "Docker. "
    if most < worker:
        found += f": a worker of {settings.worker_jobs:,} jobs needs {worker:,}"
        return problem(found, f"{do}Or fewer DARKQ_WORKER_JOBS")
    if most < gateway:
        found += f": enough for a worker; a gateway that is full needs {gateway:,}"
        return warning(found, f"{do}Or fewer DARKQ_GATEWAY_MAX_CONNECTIONS")
    return ok(f"{found}; a worker needs {worker:,} at most, a gateway {gateway:,}")


@MACHINE.check("state folder")
async def state_folder(settings: Settings) -> Answer:
    if settings.redis_url is not None:
        return skipped("DARKQ_REDIS_URL names a server of its own, so the embedded one is not used")
    folder = settings.state_dir
    return _private(folder, _folder(folder, "DARKQ_STATE_DIR", _TOO_LITTLE_BYTES))


@MACHINE.check("files")
async def files(settings: Settings) -> Answer:
    folder = local_folder(settings)
    if folder is not None:
        setting = "DARKQ_STATE_DIR" if settings.files_url is None else "DARKQ_FILES_URL"
        return _private(folder, _folder(folder, setting, 2 * settings.files_max_bytes))
    if find_spec("obstore") is None:
        return skipped("obstore is not installed here", "pip install 'darkq[gateway]'")
    try:
        await Files(settings).info(None, new_file_id())
    except FileNotFound:
        return ok("the store of DARKQ_FILES_URL answers")
    except (FileStoreUnavailable, ValueError) as error:  # a URL that obstore does not know
        do = "See that DARKQ_FILES_URL is right, and that its credentials are in the environment"
        return problem(f"the store of files does not answer ({type(error).__name__})", do)
    return ok("the store of DARKQ_FILES_URL answers")


def _private(folder: Path, answer: Answer) -> Answer:
    """Add to an answer about a folder whether other users of this machine can open it."""
    try:
        is_open = is_open_to_others(folder)
    except OSError:  # it is not there yet, and will be made private
        return answer
    if not is_open:
        return answer
    found = warning(f"{folder} is open to other users", f"chmod 700 {folder}")
    return worst_of([answer, found], otherwise="")


def _folder(folder: Path, setting: str, needed: int) -> Answer:
    """Look whether there is room in a folder, or where it would be made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return problem(f"{there} is no folder that this user may write to", f"{setting}=a folder")
    free = shutil.disk_usage(there).free
    found = f"{folder}, {megabytes(free)} free"
    do = f"Make room, or {setting} on another disk"
    if free < needed:
        return problem(f"{found}: too little", do)
    return warning(found, do) if free < _LITTLE_BYTES else ok(found)
