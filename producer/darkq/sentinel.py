"""Connections to whichever server Sentinels call the master.

Each attempt to connect asks anew: after a failover the next one finds the new master. What a
Sentinel says may be out of date, so the server is asked too. A master that has become a replica
says so when it is written to (READONLY), and one whose replicas have left it, where it is told to
mind (`min-replicas-to-write`: NOREPLICAS). Such a connection is given up; the next call asks anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

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

from darkq.redis_url import Address, RedisUrl
from darkq.transport import Cancellable, PatientHandshake, Tcp, Tls

_ASK_TIMEOUT_S = 1.0
_NO_MASTER = re.compile(r"\b(READONLY|NOREPLICAS|MASTERDOWN)\b")


class Sentinels:
    """Those who know the master of a service; the one that answered last is asked first."""

    def __init__(self, url: RedisUrl) -> None:
        self._service = url.service
        self._addresses = list(url.addresses)
        self._class = Tls if url.connection_class is SSLConnection else Tcp
        self._options = {
            **url.sentinel_options,
            "socket_timeout": _ASK_TIMEOUT_S,
            "socket_connect_timeout": _ASK_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
        }

    async def find_master(self) -> Address:
        """Return where the master is. Raises `ConnectionError` when no Sentinel can tell."""
        for address in list(self._addresses):
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    master = await self._ask(address)
            except (RedisError, OSError):  # a timeout is an OSError
                continue
            if master is not None:
                self._addresses.remove(address)
                self._addresses.insert(0, address)
                return master
        raise ConnectionError("no Sentinel knows the master")

    async def _ask(self, address: Address) -> Address | None:
        connection = self._class(host=address.host, port=address.port, **self._options)
        try:
            await connection.connect()
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            reply: Sequence[bytes] | None = await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)
        return Address(reply[0].decode(), int(reply[1])) if reply else None


class _ToMaster(Cancellable):
    """What differs in a connection whose address is not known beforehand."""

    host: str
    port: int

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.find_master()
        await super()._connect()  # type: ignore[safe-super, no-untyped-call]

    async def on_connect(self) -> None:
        await super().on_connect()
        try:
            await self.send_command("ROLE")
            (role, *_) = await self.read_response()
        except NoPermissionError:  # then its first write will tell
            return
        if role != b"master":
            raise ConnectionError("the server is no master now")

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
