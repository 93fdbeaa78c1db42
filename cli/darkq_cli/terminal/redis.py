"""How a command reaches Redis: the configured one, or the embedded one, started if need be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, TypeVar

from pydantic import SecretStr

from darkq import Client, Settings
from darkq_cli.terminal.interrupts import run, undisturbed
from darkq_local.embedded import embedded_redis

T = TypeVar("T")


class Reached(NamedTuple):
    """Settings whose `redis_url` is set, and what to call that Redis when talking to people."""

    settings: Settings
    name: str


@contextmanager
def redis_of(settings: Settings) -> Iterator[Reached]:
    """Have a Redis for the length of the block. The embedded one stops with its last user.

    Raises `DarkqError` when there is none.
    """
    if settings.redis_url is not None:
        yield Reached(settings, "the one of DARKQ_REDIS_URL")
        return
    with ExitStack() as stack:
        # Interrupted in the middle of its start or end, the server would be left running.
        try:
            with undisturbed():
                server = stack.enter_context(embedded_redis(settings.state_dir))
            found = settings.model_copy(update={"redis_url": SecretStr(server.url)})
            kind = f"{server.binary.name} {server.version}"
            yield Reached(found, f"embedded, {kind}, in {settings.state_dir}")
        finally:
            with undisturbed():
                stack.close()


def with_client(use: Callable[[Client], Awaitable[T]]) -> T:
    """Run `use` with a client of the Redis that there is, and return what it returns."""
    with redis_of(Settings.load()) as redis:
        return run(_use(redis.settings, use))


async def _use(settings: Settings, use: Callable[[Client], Awaitable[T]]) -> T:
    async with Client(settings=settings) as client:
        return await use(client)
