"""Server check: does the user have the permissions that a role of darkq needs.

`ACL DRYRUN` would tell, but only an administrator, and from Redis 7 on. A transaction works for
every user: the server checks the permission for each command when the command is queued. This
transaction is never executed. Refused commands appear in the server's ACL LOG.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from darkq_cli.doctor.checks import CheckResult, Checks, ok, problem
from darkq_cli.doctor.roles import RULES, TRANSACTIONS, Call, build_calls
from darkq_cli.doctor.servers import Server

_NO_COMMAND = "no permissions to run the"
_NO_ACCESS = "ermissions to access"
_RULES = "The rules of all roles are in docs/security.md"

PERMISSIONS: Checks[Server] = Checks()


@PERMISSIONS.check("permissions", by_hand="ACL GETUSER, beside the rules of docs/security.md")
async def permissions(server: Server) -> CheckResult:
    calls = {word: call for rule in RULES.values() for word, call in build_calls(rule).items()}
    denied = await _find_denied(server, calls)
    lacks = {role: [w for w in rule.split() if w in denied] for role, rule in RULES.items()}
    able = [role for role, words in lacks.items() if not words]
    if len(able) == len(RULES):
        return ok(f"user {server.user} has the permissions of worker, producer and reader")
    others = "; ".join(f"{role} lacks {' '.join(words)}" for role, words in lacks.items() if words)
    if able:
        return ok(f"user {server.user} has the permissions of {' and '.join(able)}; {others}")
    nearest = min(lacks, key=lambda role: len(lacks[role]))
    return problem(
        f"user {server.user} has the permissions of no role; for {nearest} it lacks "
        f"{' '.join(lacks[nearest])}",
        f"ACL SETUSER {server.user} {' '.join(lacks[nearest])}. {_RULES}",
    )


async def _find_denied(server: Server, calls: Mapping[str, Call]) -> set[str]:
    """Return the words of rules that the server refuses. It executes nothing.

    Raises what redis-py raises.
    """
    connection: Any = server.redis.connection_pool.make_connection()
    try:
        await connection.connect()
        for word, command in zip(TRANSACTIONS, ("MULTI", "EXEC"), strict=True):
            await connection.send_command(command)
            if await _is_denied(connection, word):
                return {word}  # without a transaction, the calls would be executed
        # One packet: if redis-py reconnects to send it, MULTI and the calls stay together.
        transaction = connection.pack_commands([("MULTI",), *calls.values()])
        await connection.send_packed_command(transaction)
        words = [TRANSACTIONS[0], *calls]
        return {word for word in words if await _is_denied(connection, word)}
    finally:
        await connection.disconnect()  # this discards the transaction


async def _is_denied(connection: Any, word: str) -> bool:
    """Read a reply, and tell whether it refuses this word and not another part of the call."""
    try:
        await connection.read_response()
    except ResponseError as error:  # other errors, such as a wrong type, are not refusals
        return (_NO_COMMAND if word[0] == "+" else _NO_ACCESS) in str(error)
    return False
