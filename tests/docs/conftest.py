"""Fixtures: what the documents talk about, on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from darkq import Settings
from darkq_gateway.serve import gateway
from darkq_local.local_darkai import LocalDarkAI
from support.doc_darkq import make_quick_darkq
from support.doc_shell import Shell
from support.reading_docs import Reader
from support.scripted_upstream import scripted_upstream
from support.servers import Server, binaries, running

Read = Callable[[set[str]], AbstractAsyncContextManager[Reader]]

# What documents call it, and where it is here.
REDIS_OF_THE_DOCS = ("redis://user:password@redis.internal:6379/0", "redis://localhost")
MODELS_OF_THE_DOCS = "qwen3=scripted-tools, deepseek-r1=scripted-reasoning"
OTHER_REDIS = "redis://user:password@new.internal:6379/0"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A server that `darkq doctor` finds nothing wrong with."""
    with running(binaries()["valkey"], "--appendonly", "yes") as server:
        yield server


@pytest.fixture(scope="session")
def quick() -> Iterator[Path]:
    """A folder with a quick `darkq`, for PATH."""
    with tempfile.TemporaryDirectory(prefix="darkq-docs-") as name:
        yield make_quick_darkq(Path(name))


@pytest.fixture
def reading(
    quick: Path,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], Any],
) -> Read:
    """Have a reader with a home of its own, beside what a document asks for.

    By default Redis, a DarkAI and a worker; `gateway` too; `service`, a second upstream, which
    takes tools and schemas; or `darkai` alone; `slow`, so that something can happen in the middle.
    """

    for tool in ("bash", "curl", "jq"):
        if shutil.which(tool) is None and not os.environ.get("CI"):
            pytest.skip(f"{tool} is not installed")

    @asynccontextmanager
    async def start(beside: set[str]) -> AsyncIterator[Reader]:
        async with AsyncExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="darkq-docs-")))
            folder = home / "here"
            folder.mkdir()
            ports = {8080: free_port()}
            environment = {
                "PATH": f"{quick}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
                "HOME": str(home),
                "LANG": "C.UTF-8",
                "PYTHONUNBUFFERED": "1",
                "DARKQ_STATE_DIR": str(home / "s"),
                "DARKQ_LOCAL_MODEL": "markov",
                "DARKQ_GATEWAY_PORT": str(ports[8080]),
            }
            named: dict[str, str] = {}
            chunks, pace = (40, 20) if "slow" in beside else (12, 60)
            darkai = await start_darkai(chunks=chunks, chunks_per_s=pace)
            environment["DARKQ_DARKAI_URL"] = darkai.url
            if "darkai" not in beside:
                upstreams = {}
                if "service" in beside:
                    service = await stack.enter_async_context(scripted_upstream())
                    upstreams["service"] = {"url": service.url, "models": MODELS_OF_THE_DOCS}
                settings = make_settings(
                    darkai_url=darkai.url,
                    upstreams=upstreams,
                    state_dir=home / "s",
                    gateway_port=ports[8080],
                    retry_base_s=0.02,
                )
                assert settings.redis_url is not None
                url = settings.redis_url.get_secret_value()
                environment["DARKQ_REDIS_URL"] = url
                named = {**dict.fromkeys(REDIS_OF_THE_DOCS, url), OTHER_REDIS: f"{url}?db=1"}
                start_worker(settings)
                if "gateway" in beside:
                    await stack.enter_async_context(gateway(settings))
            shell = Shell(folder, environment)
            stack.push_async_callback(shell.end)
            yield Reader(shell, folder, ports=ports, named=named, free_port=free_port)

    return start
