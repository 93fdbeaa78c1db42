"""The Redis that a command uses: the configured one, or an embedded one, started if needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from darkq_cli.terminal.interrupts import delay_interrupts, run

if TYPE_CHECKING:
    from darkq import Client, Settings

T = TypeVar("T")


class RedisTarget(NamedTuple):
    """Settings with a `redis_url`, and the name of that Redis in messages."""

    settings: Settings
    name: str


def shorten_timeouts(settings: Settings, timeout_s: float) -> Settings:
    """Return settings with short timeouts, so that an outage shows soon."""
    timeout_s = min(timeout_s, settings.redis_timeout_s)
    return settings.model_copy(update={"redis_patience_s": 0.0, "redis_timeout_s": timeout_s})


@contextmanager
def open_redis(settings: Settings) -> Iterator[RedisTarget]:
    """Provide a Redis during the block. Its last user stops an embedded one.

    Raises `DarkqError` when there is none.
    """
    if settings.redis_url is not None:
        yield RedisTarget(settings, "the one of DARKQ_REDIS_URL")
        return
    from pydantic import SecretStr

    from darkq_local.embedded import embedded_redis

    with ExitStack() as stack:
        # A signal during the start or the stop would leave the server running without a user.
        try:
            with delay_interrupts():
                server = stack.enter_context(embedded_redis(settings.state_dir))
            found = settings.model_copy(update={"redis_url": SecretStr(server.url)})
            kind = f"{server.binary.name} {server.version}"
            yield RedisTarget(found, f"embedded, {kind}, in {settings.state_dir}")
        finally:
            with delay_interrupts():
                stack.close()


def with_client(use: Callable[[Client], Awaitable[T]]) -> T:
    """Call `use` with a client, run what it returns, and return the result."""
    from darkq import Client, Settings

    async def connect(settings: Settings) -> T:
        async with Client(settings=settings) as client:
            return await use(client)

    with open_redis(Settings.load()) as redis:
        return run(connect(redis.settings))
