"""A writer whose connection is lost in the midst of a flush: it decides what is sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError

from darkq import Settings
from darkq.redis.raw import Command, RawConnection
from darkq.redis.servers import servers_of
from darkq_worker.writing.writer import Writer
from integration.model.faulty_redis import Fault


class Faults:
    """What befalls a writer's next flush, and what befell it so far."""

    fault: Fault | None = None
    replies_lost = 0


class FaultyWriter(Writer):
    def __init__(self, settings: Settings, faults: Faults) -> None:
        super().__init__(servers_of(settings), settings)
        self._faults = faults

    def _make_line(
        self, connection: AbstractConnection, on_reply: Callable[[Any], None]
    ) -> RawConnection:
        return _FaultyConnection(connection, on_reply, self._faults)


class _FaultyConnection(RawConnection):
    def __init__(
        self, connection: AbstractConnection, on_reply: Callable[[Any], None], faults: Faults
    ) -> None:
        super().__init__(connection, self._hear)
        self._pass_on = on_reply
        self._faults = faults
        self._to_drop = 0

    def send(self, *commands: Command) -> None:
        fault, self._faults.fault = self._faults.fault, None
        if fault == "request lost":
            self.fail(ConnectionError("the connection was lost"))
        else:
            self._to_drop = len(commands) if fault else 0
            super().send(*commands)

    def _hear(self, reply: Any) -> None:
        if not self._to_drop:
            self._pass_on(reply)
            return
        self._to_drop -= 1
        if not self._to_drop:
            self._faults.replies_lost += 1
            self.fail(ConnectionError("the connection was lost"))
