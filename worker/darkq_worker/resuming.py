"""What a writer asks over a new connection, before it writes: where each log stands, and whose its
job is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from darkq import scripts
from darkq.event import Cursor
from darkq.line import Command
from darkq_worker.attempt_log import AttemptLog
from darkq_worker.flush import is_hopeless


class Standing(NamedTuple):
    """Who has the lease of a log's job, if anybody has, and the log's last entry: as Redis says it,
    or an error that it would say for ever.
    """

    holder: Any
    last: Any


async def load_scripts(connection: AbstractConnection, *, in_cluster: bool) -> None:
    """Bring all scripts to the server. Raises what redis-py raises."""
    sources = [script.source(in_cluster=in_cluster) for script in scripts.ALL]
    await _send(connection, [("SCRIPT", "LOAD", source) for source in sources])
    for _ in sources:
        await connection.read_response()


async def ask_standings(
    connection: AbstractConnection, logs: Sequence[AttemptLog]
) -> dict[AttemptLog, Standing]:
    """Ask where logs stand. Raises what redis-py raises."""
    commands: list[Command] = []
    for log in logs:
        commands.append(("GET", log.keys.in_progress))
        commands.append(("XREVRANGE", log.keys.events, "+", "-", "COUNT", 1))
    await _send(connection, commands)
    return {log: Standing(await _reply(connection), await _reply(connection)) for log in logs}


def go_on(log: AttemptLog, standing: Standing) -> None:
    """Go on after a log's last entry, or lose it to whoever has its job by now."""
    holder, last = standing
    try:
        # A server that forgot our claim may have given its number to somebody else.
        if isinstance(last, Exception) or holder not in (None, log.token.encode()):
            log.lose()
        else:
            log.resume(Cursor.parse(last[0][0]) if last else None)
    except ValueError:  # what stands there is no log of ours
        log.lose()


async def _send(connection: AbstractConnection, commands: Sequence[Command]) -> None:
    if commands:
        await connection.send_packed_command(connection.pack_commands(commands))


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        if not is_hopeless(error):
            raise
        return error
