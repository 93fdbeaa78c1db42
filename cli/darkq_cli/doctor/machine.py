"""Checks of the settings and of this machine."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from pydantic_settings import DotEnvSettingsSource

from darkq import Settings
from darkq.errors import FileNotFound, FileStoreUnavailable
from darkq.serving.files import Files, local_folder, new_file_id
from darkq.settings.private_files import is_open_to_others
from darkq.settings.upstreams import DARKAI
from darkq_cli.doctor.checks import CheckResult, Checks, Findings, ok, problem, skipped, warning
from darkq_cli.terminal.units import format_megabytes

_PREFIX = "DARKQ_"
_OTHERS = {
    "DARKQ_IMAGE",  # docker-compose.yml
    "DARKQ_MOVE_TO_URL",  # darkq queues move
    "DARKQ_REDIS_PASSWORD",  # docker-compose.yml until version 0.1
    "DARKQ_SECRETS",  # docker-compose.yml
    "DARKQ_SECRETS_DIR",  # the folder of settings in files
    "DARKQ_WORKERS",  # docker-compose.yml
}
"""Variables that have an effect, and are no settings."""

_NEAR = 0.85
"""How similar a name must be to be suggested: a wrong suggestion is worse than none."""

_SPARE_FILES = 64
_LOW_SPACE_BYTES = 1 << 30
_TOO_LOW_SPACE_BYTES = 100 << 20

MACHINE: Checks[Settings] = Checks()


@MACHINE.check("configuration")
async def configuration(settings: Settings) -> CheckResult:
    upstreams = [DARKAI] * settings.uses_darkai + sorted(settings.upstreams)
    findings = Findings()
    if not upstreams:
        findings.problem(
            "no upstream is configured", "Set DARKQ_DARKAI_URL or DARKQ_UPSTREAMS__<NAME>__URL"
        )
    elif settings.default_upstream not in (None, *upstreams):
        found = f"DARKQ_DEFAULT_UPSTREAM is {settings.default_upstream}, which is not configured"
        findings.problem(found, f"Use one of: {', '.join(upstreams)}")
    if settings.worker_reserved_interactive >= settings.worker_jobs:
        findings.problem(
            "all slots of a worker are reserved for interactive jobs: no worker starts",
            f"Set DARKQ_WORKER_RESERVED_INTERACTIVE below DARKQ_WORKER_JOBS={settings.worker_jobs}",
        )
    if settings.redis_timeout_s >= settings.worker_lease_s:
        findings.problem(
            "DARKQ_REDIS_TIMEOUT_S is not below DARKQ_WORKER_LEASE_S: no worker starts, "
            "because a stalled connection would lose it all its leases",
            f"Set DARKQ_REDIS_TIMEOUT_S={settings.worker_lease_s * 2 / 3:g}",
        )
    for low, high in (
        ("retry_base_s", "retry_max_s"),
        ("breaker_cooldown_s", "breaker_cooldown_max_s"),
    ):
        if getattr(settings, low) > getattr(settings, high):
            names = f"DARKQ_{low.upper()} is above DARKQ_{high.upper()}"
            findings.warning(names, f"Raise DARKQ_{high.upper()}")
    given = len(settings.model_fields_set)
    return findings.combine(
        otherwise=f"valid; settings given: {given}, the others have their defaults"
    )


@MACHINE.check("unknown settings")
async def unknown_settings(settings: Settings) -> CheckResult:
    known = {f"{_PREFIX}{name.upper()}" for name in type(settings).model_fields}
    file = DotEnvSettingsSource(type(settings), env_prefix="", case_sensitive=False)
    set_here = {name.upper() for name in (*os.environ, *file.env_vars)}
    unknown = sorted(
        name
        for name in set_here - known - _OTHERS
        if name.startswith(_PREFIX) and not name.startswith(f"{_PREFIX}UPSTREAMS__")
    )
    if not unknown:
        return ok("all variables DARKQ_... are settings")
    return warning(
        f"not a setting, so it has no effect: {', '.join(unknown)}",
        "; ".join(_suggest(name, known) for name in unknown),
    )


def _suggest(name: str, known: Iterable[str]) -> str:
    names = [each.removeprefix(_PREFIX) for each in known]  # which makes all names alike
    near = get_close_matches(name.removeprefix(_PREFIX), names, n=1, cutoff=_NEAR)
    if near:
        return f"Use {_PREFIX}{near[0]}"
    return f"Remove {name}; .env.example lists all settings"


@MACHINE.check("open files")
async def open_files(settings: Settings) -> CheckResult:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return ok("unlimited")
    pool = settings.redis_connections
    worker = settings.worker_jobs + 2 * pool + _SPARE_FILES
    gateway = settings.gateway_max_connections + pool + _SPARE_FILES
    found = f"{most:,} (ulimit -n)"
    do = f"Run ulimit -n {max(worker, gateway)} before the start (systemd: LimitNOFILE=, Docker: "
    do += "ulimits:). "
    if most < worker:
        found += f": a worker of {settings.worker_jobs:,} jobs needs {worker:,}"
        return problem(found, f"{do}Or lower DARKQ_WORKER_JOBS")
    if most < gateway:
        found += f": enough for a worker; a gateway with all its connections needs {gateway:,}"
        return warning(found, f"{do}Or lower DARKQ_GATEWAY_MAX_CONNECTIONS")
    return ok(f"{found}; a worker needs up to {worker:,}, a gateway {gateway:,}")


@MACHINE.check("state folder")
async def state_folder(settings: Settings) -> CheckResult:
    if settings.redis_url is not None:
        return skipped("DARKQ_REDIS_URL is set, so the embedded server is not used")
    folder = settings.state_dir
    return _check_folder(folder, "DARKQ_STATE_DIR", _TOO_LOW_SPACE_BYTES)


@MACHINE.check("files")
async def files(settings: Settings) -> CheckResult:
    folder = local_folder(settings)
    if folder is not None:
        setting = "DARKQ_STATE_DIR" if settings.files_url is None else "DARKQ_FILES_URL"
        return _check_folder(folder, setting, 2 * settings.files_max_bytes)
    if find_spec("obstore") is None:
        return skipped("obstore is not installed here", "pip install 'darkq[gateway]'")
    try:
        with suppress(FileNotFound):
            await Files(settings).info(None, new_file_id())
    # ValueError: a URL that obstore does not support
    except (FileStoreUnavailable, ValueError) as error:
        do = "Check DARKQ_FILES_URL, and that its credentials are in the environment"
        return problem(f"the store of files does not answer ({type(error).__name__})", do)
    return ok("the store of DARKQ_FILES_URL answers")


def _check_folder(folder: Path, setting: str, needed: int) -> CheckResult:
    """Check the free space of a folder, and that other users of this machine cannot open it."""
    findings = Findings([_check_space(folder, setting, needed)])
    with suppress(OSError):  # it does not exist yet, and will be created private
        if is_open_to_others(folder):
            findings.warning(f"{folder} is open to other users", f"chmod 700 {folder}")
    return findings.combine()


def _check_space(folder: Path, setting: str, needed: int) -> CheckResult:
    """Check the free space in a folder, or in the one where it would be created."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return problem(
            f"{existing} is not a folder that this user can write to", f"Set {setting} to one"
        )
    free = shutil.disk_usage(existing).free
    found = f"{folder}, {format_megabytes(free)} free"
    do = f"Free disk space, or set {setting} to another disk"
    if free < needed:
        return problem(f"{found}: too little", do)
    return warning(found, do) if free < _LOW_SPACE_BYTES else ok(found)
