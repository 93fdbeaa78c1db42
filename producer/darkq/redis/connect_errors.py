"""Why there is no connection to Redis: the cause, and the address without credentials.

redis-py reports most causes as a `ConnectionError` whose text differs by version and event loop.
`explain` looks at the original error and returns a `CannotConnect`, which redis-py's handlers treat
as any other `ConnectionError`.

A server without TLS waits for the rest of what it takes for a command, so a TLS handshake with it
ends only by a timeout. A server with TLS closes a plain connection without a word. Both look like
an outage. So at the first connection of a pool, the two probes below ask in the other language.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import os
import re
import socket
import ssl
from contextlib import suppress
from typing import Literal, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    InvalidResponse,
    ResponseError,
    TimeoutError,
)

Cause: TypeAlias = Literal[
    "connection_refused",
    "no_socket",
    "socket_forbidden",
    "unknown_host",
    "host_lookup_failed",
    "host_unreachable",
    "no_reply",
    "connection_closed",
    "wrong_password",
    "password_required",
    "password_unexpected",
    "tls_required",
    "tls_unsupported",
    "certificate_rejected",
    "tls_failed",
    "no_such_database",
    "no_master",
    "no_node",
]

_PASSING: dict[Cause, str] = {
    "connection_refused": "Redis does not answer at {where}: connection refused",
    "no_socket": "Redis does not answer at {where}: there is no such socket",
    "host_lookup_failed": "Redis cannot be reached: the host name of {where} cannot be looked up",
    "host_unreachable": "Redis does not answer at {where}: {detail}",
    "no_reply": "Redis does not answer at {where}: no reply in time",
    "connection_closed": "Redis does not answer at {where}: the connection was closed",
    "tls_failed": "the TLS handshake with Redis at {where} fails: {detail}",
    "no_master": "no Sentinel knows the master; asked: {where}",
    "no_node": "no node of the cluster answers; asked: {where}",
}
_LASTING: dict[Cause, str] = {
    "unknown_host": "Redis cannot be reached: the host name of {where} is unknown",
    "socket_forbidden": "Redis cannot be reached: this user may not open the socket {where}",
    "wrong_password": "Redis at {where} rejects the user or the password",
    "password_required": "Redis at {where} requires a password, and none was given",
    "password_unexpected": "Redis at {where} has no password for this user, and one was given",
    "tls_required": "Redis at {where} requires TLS: use rediss:// instead of redis://",
    "tls_unsupported": "Redis at {where} does not use TLS: use redis:// instead of rediss://",
    "certificate_rejected": "the TLS certificate of Redis at {where} is rejected: {detail}",
    "no_such_database": "Redis at {where} has no such database",
}
"""Causes that a person has to correct, so that waiting cannot help."""

TLS_DOUBT_S = 1.0
"""After this time without the end of a TLS handshake, a probe asks without TLS."""

_PROBE_TIMEOUT_S = 2.0
_CLOSED = re.compile(r"closed by server|connection was lost|Error while reading|Connection lost")
_ERRNO = re.compile(r"\[Errno (\d{1,4})\]")
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
_UNKNOWN_HOST = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


class CannotConnect(ConnectionError):
    """There is no connection to the server at `where`, and why. The text has no credentials."""

    def __init__(self, cause: Cause, where: str, detail: str = "") -> None:
        sentence = (_PASSING | _LASTING)[cause]
        super().__init__(sentence.format(where=where, detail=detail))
        self.cause: Cause = cause
        self.where = where

    @property
    def is_lasting(self) -> bool:
        """Whether a person has to correct it, so that waiting cannot help."""
        return self.cause in _LASTING


def describe_address(connection: AbstractConnection) -> str:
    """Return the address of a connection: the host and the port, or the path of its socket."""
    path = getattr(connection, "path", None)
    if path is not None:
        return str(path)
    return f"{getattr(connection, 'host', '?')}:{getattr(connection, 'port', '?')}"


def explain(error: BaseException, where: str) -> CannotConnect | None:
    """Return why a connection to `where` failed; None for an error that has another reason."""
    if isinstance(error, CannotConnect):
        return error
    if type(error) is ConnectionError and error.__cause__ is not None:  # redis-py has wrapped it
        return explain(error.__cause__, where)
    if isinstance(error, AuthenticationError):
        return CannotConnect(_find_password_problem(str(error)), where)
    if isinstance(error, ssl.SSLCertVerificationError):
        return CannotConnect("certificate_rejected", where, error.verify_message)
    if isinstance(error, ssl.SSLError):
        return CannotConnect("tls_failed", where, (error.reason or "it was ended").lower())
    if isinstance(error, TimeoutError | builtins.TimeoutError):
        return CannotConnect("no_reply", where)
    if isinstance(error, OSError):
        return _explain_os_error(error, where)
    if isinstance(error, InvalidResponse) or _CLOSED.search(str(error)):
        return CannotConnect("connection_closed", where)
    if isinstance(error, ResponseError) and "DB index" in str(error):
        return CannotConnect("no_such_database", where)
    return None


def _find_password_problem(text: str) -> Cause:
    if "required" in text:
        return "password_required"
    if "without any password configured" in text or "no password is set" in text:
        return "password_unexpected"
    return "wrong_password"


def _explain_os_error(error: OSError, where: str) -> CannotConnect:
    if isinstance(error, socket.gaierror):
        is_unknown = error.errno in _UNKNOWN_HOST
        return CannotConnect("unknown_host" if is_unknown else "host_lookup_failed", where)
    # For a name with several addresses, asyncio joins the texts of their errors.
    numbers = {int(number) for number in _ERRNO.findall(str(error))} | {error.errno}
    if errno.ECONNREFUSED in numbers:
        return CannotConnect("connection_refused", where)
    if errno.ENOENT in numbers:
        return CannotConnect("no_socket", where)
    if errno.EACCES in numbers:
        return CannotConnect("socket_forbidden", where)
    if errno.ETIMEDOUT in numbers:
        return CannotConnect("no_reply", where)
    for number in _UNREACHABLE:
        if number in numbers:
            return CannotConnect("host_unreachable", where, os.strerror(number).lower())
    return CannotConnect("connection_closed", where)


async def speaks_plain(host: str, port: int) -> bool:
    """Return whether a Redis answers there without TLS."""
    with suppress(OSError, asyncio.IncompleteReadError):  # a timeout is an OSError
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"PING\r\n")
                return await reader.readexactly(1) in (b"+", b"-")
            finally:
                writer.close()
    return False


async def speaks_tls(host: str, port: int) -> bool:
    """Return whether a server there begins a TLS handshake. Sends nothing else."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=tls)
    except ssl.SSLError as error:  # an alert, as for a missing certificate of the client
        return "ALERT" in (error.reason or "")
    except OSError:  # a timeout too
        return False
    writer.transport.abort()
    return True
