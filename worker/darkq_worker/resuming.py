"""What a writer asks over a new connection, before it writes: where each log stands, which run it
holds, and whose its job is.

After a failover two servers may have given one attempt's number to two runs, if the first server's
claim was on no replica. Each run began with a `started` event of its own: so a log that holds
another one under our number is another run's. To go on there would join two texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from darkq import scripts
from darkq.event import Cursor, Started, decode
from darkq.line import Command
from darkq_worker.attempt_log import AttemptLog
from darkq_worker.flush import is_hopeless


class Standing(NamedTuple):
    """A log as Redis has it: who holds the job's lease, the log's last entry, and the entry that
    began the attempt; each empty when there is none, or an error that Redis would repeat.
    """

    holder: Any
    last: Any
    begun: Any

    def holds_another_run(self, log: AttemptLog) -> bool:
        """Return True if another run has begun this attempt.

        A run that ends before it begins writes its end where `started` would be: without a
        `started` of ours, an entry of another kind may be our own end, whose reply was lost.
        """
        if not isinstance(self.begun, list) or not self.begun:
            return False
        entry: bytes = self.begun[0][1][1]
        if log.started is None:
            return isinstance(decode(entry), Started)
        return entry != log.started


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
        begun_at = str(Cursor(log.attempt, 0))
        commands.append(("XRANGE", log.keys.events, begun_at, begun_at))
    await _send(connection, commands)
    standings: dict[AttemptLog, Standing] = {}
    for log in logs:
        replies = [await _reply(connection) for _ in Standing._fields]
        standings[log] = Standing(*replies)
    return standings


def go_on(log: AttemptLog, standing: Standing) -> None:
    """Go on after a log's last entry, or lose it to whoever has its job by now."""
    holder, last, _ = standing
    try:
        # A server that forgot our claim may have given its number to somebody else.
        is_ours = holder in (None, log.token.encode()) and not standing.holds_another_run(log)
        if isinstance(last, Exception) or not is_ours:
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
