"""Connections to the server that the Sentinels name as the master.

Each connect asks the Sentinels, so the first one after a failover finds the new master. Sentinels
may disagree for some seconds. So all are asked, and among the replies of a majority the one with
the highest configuration epoch counts: Redis raises that number with each failover. The server is
asked for its role too. A master that has become a replica refuses writes (READONLY); so does one
that has lost its replicas, where `min-replicas-to-write` is set (NOREPLICAS). Such a connection
is closed, and the next call asks the Sentinels again.

A master that was replaced during an outage accepts writes for about ten seconds after it returns.
Then a Sentinel makes it a replica, and those writes are lost. So a connection in use asks the
Sentinels every second. When they name another master, all connections to the old one are closed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast
from weakref import WeakSet

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ConnectionError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from darkq.redis.connect_errors import CannotConnect
from darkq.redis.connections import Cancellable, PatientHandshake, Tcp, Tls
from darkq.redis.url import Address, RedisUrl

_ASK_TIMEOUT_S = 1.0
_LOOK_EVERY_S = 1.0
_LOOK_AGAIN_S = 10.0
_NO_MASTER = re.compile(r"\b(READONLY|NOREPLICAS|MASTERDOWN)\b")


class _Answer(NamedTuple):
    """The server that a Sentinel names as the master, and the epoch of that decision."""

    epoch: int
    master: Address


class Sentinels:
    """The Sentinels of a service, and the connections to the master that they name."""

    def __init__(self, url: RedisUrl) -> None:
        self._service = url.service
        self._addresses = url.addresses
        self._class = Tls if url.connection_class is SSLConnection else Tcp
        self._options = {
            **url.sentinel_options,
            "socket_timeout": _ASK_TIMEOUT_S,
            "socket_connect_timeout": _ASK_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
        }
        self._connections: WeakSet[_ToMaster] = WeakSet()
        self._next_look_s = 0.0

    def add(self, connection: _ToMaster) -> None:
        """Close this connection when another server becomes the master."""
        self._connections.add(connection)

    async def look(self) -> None:
        """Look for another master, if a second has passed since the last look.

        One caller asks for all connections, which stay open if no Sentinel replies. Without
        a majority a look takes a second, so the next one follows ten seconds later.
        """
        now_s = asyncio.get_running_loop().time()
        if now_s < self._next_look_s:
            return
        # The later time, before asking: concurrent calls must not ask too. A majority shortens it.
        self._next_look_s = now_s + _LOOK_AGAIN_S
        with suppress(ConnectionError):
            await self.find_master()

    async def find_master(self) -> Address:
        """Return the address of the master; close the connections to any other server.

        Raises `ConnectionError` when no Sentinel knows it.
        """
        answers = await self._ask_majority()
        if not answers:
            raise CannotConnect("no_master", ", ".join(map(str, self._addresses)))
        master = max(answers).master
        if self._is_majority(answers):
            self._next_look_s = asyncio.get_running_loop().time() + _LOOK_EVERY_S
        for connection in self._connections:
            connection.leave_all_but(master)
        return master

    def _is_majority(self, answers: Sequence[_Answer]) -> bool:
        return len(answers) > len(self._addresses) // 2

    async def _ask_majority(self) -> list[_Answer]:
        """Ask all at once; return the replies of the first majority, or those of one second."""
        answers: list[_Answer] = []
        asking = [asyncio.create_task(self._ask(address)) for address in self._addresses]
        try:
            for asked in asyncio.as_completed(asking):
                try:
                    answer = await asked
                except (RedisError, OSError):  # a timeout is an OSError
                    continue
                if answer is not None:
                    answers.append(answer)
                if self._is_majority(answers):
                    break
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return answers

    async def _ask(self, address: Address) -> _Answer | None:
        """Ask one Sentinel. Return None if it does not monitor the service."""
        connection = self._class(host=address.host, port=address.port, **self._options)
        try:
            async with asyncio.timeout(_ASK_TIMEOUT_S):
                await connection.connect()
                await connection.send_command("SENTINEL", "MASTER", self._service)
                reply = cast(Sequence[bytes], await connection.read_response())
        except ResponseError as error:
            if "No such master" in str(error):
                return None
            raise
        finally:
            await connection.disconnect(nowait=True)
        facts = dict(zip(reply[::2], reply[1::2], strict=True))
        master = Address(facts[b"ip"].decode(), int(facts[b"port"]))
        return _Answer(int(facts[b"config-epoch"]), master)


class _ToMaster(Cancellable):
    """A connection whose address the Sentinels decide."""

    host: str
    port: int

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels
        sentinels.add(self)

    def leave_all_but(self, master: Address) -> None:
        """Abort the connection, unless it leads to the master. A call on it then fails."""
        if self._writer is not None and (self.host, self.port) != master:
            self._writer.transport.abort()

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.find_master()
        await super()._connect()  # type: ignore[safe-super, no-untyped-call]

    async def on_connect(self) -> None:
        await super().on_connect()
        try:
            await self.send_command("ROLE")
            (role, *_) = await self.read_response()
        except NoPermissionError:  # the first write of a replica fails anyway
            return
        if role != b"master":
            raise ConnectionError("the server is no master now")

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        await self._sentinels.look()
        await super().send_packed_command(command, check_health)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if not isinstance(error, ReadOnlyError) and not _NO_MASTER.search(str(error)):
                raise
            await self.disconnect(nowait=True)
            raise ConnectionError("the server is no master any more") from None


class _Tcp(PatientHandshake, _ToMaster, Connection):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


class _Tls(PatientHandshake, _ToMaster, SSLConnection):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


TO_MASTER: dict[type[Any], type[AbstractConnection]] = {Connection: _Tcp, SSLConnection: _Tls}
