"""One flush: what it carries to Redis, and what the replies say. No I/O.

What a writer asks over a new connection, before it writes: where each log stands, which run it
holds, and whose its job is.

After a failover two servers may have given one attempt's number to two runs, if the first server's
claim was on no replica. Each run began with a `started` event of its own: so a log that holds
another one under our number is another run's. To go on there would join two texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from darkq.errors import NotReplicated
from darkq.event import Cursor, Started, decode
from darkq.redis import scripts
from darkq.redis.durability import WaitRule
from darkq.redis.raw import Command
from darkq_worker.writing.attempt_log import AttemptLog, Entry
from darkq_worker.writing.settlement import Settlement


class _Part(NamedTuple):
    """A log's events in this flush, and how many of the attempt's the log holds with them."""

    log: AttemptLog
    entries: list[Entry]
    held: int


_Call: TypeAlias = tuple[Command, Callable[[Any], None]]
_OnSettled: TypeAlias = Callable[[Settlement, bool], None]


class Flush:
    """One `append` per partition, then the settlements; these count when enough replicas have them.

    `error` is the first one among the replies that is worth another try. What it belongs to was not
    done. A settlement whose error is not worth one is settled: the job is not ours any more.
    """

    def __init__(
        self,
        logs: Iterable[AttemptLog],
        settlements: Sequence[Settlement],
        *,
        in_cluster: bool,
        wait: WaitRule,
        on_settled: _OnSettled,
    ) -> None:
        self.logs: list[AttemptLog] = []
        self.settlements = settlements
        self.error: Exception | None = None
        self._calls: list[_Call] = []
        self._taken = 0
        partitions: dict[int, list[_Part]] = {}
        for log in logs:
            if entries := log.seal():
                self.logs.append(log)
                part = _Part(log, entries, log.sealed)
                partitions.setdefault(log.keys.partition, []).append(part)
        for parts in partitions.values():
            self._calls.append(_append(parts, in_cluster))
        # `append` answers for each log, whatever stands in its place; an end stands for itself.
        self._ends = range(len(self._calls) + 1, len(self._calls) + len(settlements) + 1)
        ends: list[tuple[Settlement, bool]] = []
        waits = bool(settlements) and wait.replicas > 0
        told = (lambda *end: ends.append(end)) if waits else on_settled
        for settlement in settlements:
            self._calls.append(_settle(settlement, in_cluster, told))
        if waits:
            mark, await_replicas = wait.commands(settlements[0].log.keys.job)
            self._calls.append((mark, lambda _: None))
            self._calls.append((await_replicas, _told_of_replicas(wait, ends, on_settled)))

    @property
    def commands(self) -> list[Command]:
        return [command for command, _ in self._calls]

    def take_in(self, reply: Any) -> bool:
        """Take in the reply to the next command; tell whether it was the last."""
        _, told = self._calls[self._taken]
        self._taken += 1
        if not isinstance(reply, Exception):
            try:
                told(reply)
            except NotReplicated as error:
                self.error = self.error or error
        elif self._taken in self._ends and is_hopeless(reply):
            told(None)
        elif self.error is None:
            self.error = reply
        return self._taken == len(self._calls)


def is_hopeless(error: Exception) -> bool:
    """Tell whether Redis would say the same for ever: somebody has put something else there."""
    return "WRONGTYPE" in str(error)


def _append(parts: Sequence[_Part], in_cluster: bool) -> _Call:
    logs = [(log.keys, entries) for log, entries, _ in parts]

    def told(refused: Sequence[int]) -> None:
        for part, accepted in zip(parts, scripts.append_accepted(refused, logs), strict=True):
            if accepted:
                part.log.acknowledge(part.held)
            else:
                part.log.lose()

    return scripts.append_call(logs, in_cluster=in_cluster), told


def _settle(settlement: Settlement, in_cluster: bool, on_settled: _OnSettled) -> _Call:
    command = settlement.command(in_cluster=in_cluster)
    return command, lambda reply: on_settled(settlement, scripts.was_ours(reply))


def _told_of_replicas(
    wait: WaitRule, ends: Sequence[tuple[Settlement, bool]], on_settled: _OnSettled
) -> Callable[[int], None]:
    def told(reached: int) -> None:
        wait.check(reached)
        for settlement, ours in ends:
            on_settled(settlement, ours)

    return told


class Standing(NamedTuple):
    """A log as Redis has it: who holds the job's lease, the log's last entry, and the entry that
    began the attempt; each empty when there is none, or an error that Redis would repeat.
    """

    holder: Any
    last: Any
    begun: Any

    def holds_another_run(self, log: AttemptLog) -> bool:
        """Return True if another run has begun this attempt.

        A run that ends before it begins writes its end in place of `started`. So if our log has no
        `started`, an entry of another kind may be our own end, whose reply was lost.
        """
        if not isinstance(self.begun, list) or not self.begun:
            return False
        entry: bytes = self.begun[0][1][1]
        if log.started is None:
            return isinstance(decode(entry), Started)
        return entry != log.started


async def load_scripts(connection: AbstractConnection, *, in_cluster: bool) -> None:
    """Bring all scripts to the server. Raises what redis-py raises."""
    sources = [script.source(in_cluster=in_cluster) for script in scripts.ALL.values()]
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
