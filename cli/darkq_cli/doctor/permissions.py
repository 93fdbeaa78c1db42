"""What the user may do in Redis, beside what each of darkq's roles needs.

`ACL DRYRUN` would tell, to an administrator, from Redis 7 on. A transaction tells anybody: a server
checks each command as it is queued, and this one is never executed. What it refuses stands in its
log of refusals (ACL LOG).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from darkq_cli.doctor.findings import Answer, Checks, ok, problem
from darkq_cli.doctor.roles import RULES, TRANSACTIONS, Call, calls_of
from darkq_cli.doctor.servers import Server

_NO_COMMAND = "no permissions to run the"
_NO_ACCESS = "ermissions to access"
_RULES = "The rules of all roles are in docs/security.md"

PERMISSIONS: Checks[Server] = Checks()


@PERMISSIONS.check("permissions", by_hand="ACL GETUSER, beside the rules of docs/security.md")
async def permissions(server: Server) -> Answer:
    calls = {word: call for rule in RULES.values() for word, call in calls_of(rule).items()}
    denied = await _denied(server, calls)
    lacks = {role: [w for w in rule.split() if w in denied] for role, rule in RULES.items()}
    able = [role for role, words in lacks.items() if not words]
    if len(able) == len(RULES):
        return ok(f"user {server.user} may do all that a worker, a producer and a reader do")
    others = "; ".join(f"no {role}: {' '.join(words)}" for role, words in lacks.items() if words)
    if able:
        return ok(f"user {server.user} may be a {' and a '.join(able)}; {others}")
    nearest = min(lacks, key=lambda role: len(lacks[role]))
    return problem(
        f"user {server.user} may be none of darkq's roles; to be a {nearest} it lacks "
        f"{' '.join(lacks[nearest])}",
        f"ACL SETUSER {server.user} {' '.join(lacks[nearest])}. {_RULES}",
    )


async def _denied(server: Server, calls: Mapping[str, Call]) -> set[str]:
    """Return the words that the server refuses. Nothing is executed.

    Raises what redis-py raises.
    """
    connection: Any = server.redis.connection_pool.make_connection()
    try:
        await connection.connect()
        for word, command in zip(TRANSACTIONS, ("MULTI", "EXEC"), strict=True):
            await connection.send_command(command)
            if await _is_denied(connection, word):
                return {word}  # outside a transaction a call would be executed
        # In one piece: should the connection be made anew, all of it goes to the new one.
        transaction = connection.pack_commands([("MULTI",), *calls.values()])
        await connection.send_packed_command(transaction)
        words = [TRANSACTIONS[0], *calls]
        return {word for word in words if await _is_denied(connection, word)}
    finally:
        await connection.disconnect()  # and with it goes the transaction


async def _is_denied(connection: Any, word: str) -> bool:
    """Tell whether a reply says that this very word is missing, and no other of the call's."""
    try:
        await connection.read_response()
    except ResponseError as error:  # that a command cannot be is no refusal
        return (_NO_COMMAND if word[0] == "+" else _NO_ACCESS) in str(error)
    return False
