"""What a writer reads over a new connection, before it writes.

After a lost connection it is unknown which events Redis has. So the writer reads for each log: who
holds the lease of the job, the last entry of the log, and the entry that began the attempt.

After a failover two runs may have the same attempt number, if no replica had the first claim. Each
run began with a `started` event of its own. So a log with another `started` under our number
belongs to another run. To continue there would mix two texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from darkq.event import Cursor, Started, decode
from darkq.redis import scripts
from darkq.redis.raw import Command
from darkq_worker.writing.attempt_log import AttemptLog, is_permanent


class LogState(NamedTuple):
    """A log as Redis has it: the holder of the lease, the last entry, the attempt's first entry.

    Each is empty if there is none, or an error that Redis would return again.
    """

    holder: Any
    last: Any
    begun: Any

    def is_of_another_run(self, log: AttemptLog) -> bool:
        """Return True if another run has begun this attempt.

        A run that ends before it begins writes its end instead of `started`. So if our log has no
        `started`, an entry of another type may be our own end, whose reply was lost.
        """
        if not isinstance(self.begun, list) or not self.begun:
            return False
        entry: bytes = self.begun[0][1][1]
        if log.started is None:
            return isinstance(decode(entry), Started)
        return entry != log.started


async def load_scripts(connection: AbstractConnection, *, in_cluster: bool) -> None:
    """Load all scripts into the server. Raises what redis-py raises."""
    sources = [script.source(in_cluster=in_cluster) for script in scripts.ALL.values()]
    await _send(connection, [("SCRIPT", "LOAD", source) for source in sources])
    for _ in sources:
        await connection.read_response()


async def read_log_states(
    connection: AbstractConnection, logs: Sequence[AttemptLog]
) -> dict[AttemptLog, LogState]:
    """Return the state of each log. Raises what redis-py raises."""
    commands: list[Command] = []
    for log in logs:
        commands.append(("GET", log.keys.in_progress))
        commands.append(("XREVRANGE", log.keys.events, "+", "-", "COUNT", 1))
        begun_at = str(Cursor(log.attempt, 0))
        commands.append(("XRANGE", log.keys.events, begun_at, begun_at))
    await _send(connection, commands)
    states: dict[AttemptLog, LogState] = {}
    for log in logs:
        # Every reply must be read, also an error: the next log's replies come after it.
        replies = [await _read_reply(connection) for _ in LogState._fields]
        states[log] = LogState(*replies)
    return states


def resume_log(log: AttemptLog, state: LogState) -> None:
    """Continue after the last entry of a log, or lose it if another run owns the job."""
    holder, last, _ = state
    try:
        # No holder is fine: the lease expired during the outage, and renewal takes it back. A
        # server that forgot our claim may have given the same number to another worker.
        is_ours = holder in (None, log.token.encode()) and not state.is_of_another_run(log)
        if isinstance(last, Exception) or not is_ours:
            log.lose()
        else:
            log.resume(Cursor.parse(last[0][0]) if last else None)
    except ValueError:  # the stream was not written by darkq
        log.lose()


async def _send(connection: AbstractConnection, commands: Sequence[Command]) -> None:
    if commands:
        await connection.send_packed_command(connection.pack_commands(commands))


async def _read_reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        if not is_permanent(error):
            raise
        return error
