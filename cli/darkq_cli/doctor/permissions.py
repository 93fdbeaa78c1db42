"""Server check: does the user have the permissions that a role of darkq needs.

`ACL DRYRUN` would tell, but only an administrator, and from Redis 7 on. A transaction works for
every user: the server checks the permission for each command when the command is queued. This
transaction is never executed. Refused commands appear in the server's ACL LOG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from redis.exceptions import ResponseError

from darkq_cli.doctor.checks import CheckResult, Checks, ok, problem
from darkq_cli.doctor.servers import Server

Call: TypeAlias = tuple[str, ...]

RULES = {
    "worker": (
        "resetkeys ~arq:* ~darkq:* resetchannels &darkq:* -@all +client|setinfo +select "
        "+ping +subscribe +unsubscribe +publish +multi +exec +eval +evalsha +script|load "
        "+info +time +exists +get +set +psetex +del +expire +pexpire +pttl +rename +incr "
        "+hget +hsetnx +hexists +hincrby +hdel +sadd +srem +zadd +zcard +zrem +zrange "
        "+zrangebyscore +xadd +xrevrange +hmget +zscore +hset +zcount "
        "+zrank +hgetall +xrange +getbit +copy +mget +setbit +xtrim +strlen"
    ),
    "producer": (
        "resetkeys ~arq:* ~darkq:* resetchannels &darkq:* -@all +client|setinfo +select "
        "+ping +subscribe +unsubscribe +publish +multi +exec +eval +evalsha +info +time "
        "+exists +get +getrange +mget +set +del +pexpire +rename +hset +hmget +smembers +srem "
        "+zadd +zcard +zrem +zscore +zrevrangebyscore +xadd +xdel +xrange +xrevrange "
        "+hget +hgetall +hincrby +hsetnx +getbit +setbit +zcount +zrangebyscore "
        "+zrevrange +xtrim +copy +zremrangebyrank +expire +hscan +strlen"
    ),
    "reader": (
        "resetkeys ~arq:* ~darkq:events:* ~darkq:state:* ~darkq:{* ~darkq:batch:* "
        "~darkq:limit:* resetchannels &darkq:live:* -@all +client|setinfo +select +ping "
        "+subscribe +unsubscribe +multi +exec +time +exists +get +getrange +mget +hmget +smembers "
        "+zscore +xrange +xrevrange +hgetall +zcount +zrangebyscore +zrevrange"
    ),
}

_KEY = "arq:doctor"
_CHANNEL = "darkq:live:doctor"

# The shortest call of each command. Calls are only queued, never executed, so that a server checks
# the number of their arguments, and their keys.
_ARGUMENTS = {
    "": "INFO PING TIME",
    "x": "SELECT",
    "SETINFO x x": "CLIENT",
    "LOAD x": "SCRIPT",
    f"x 1 {_KEY}": "EVAL EVALSHA",
    _CHANNEL: "SUBSCRIBE UNSUBSCRIBE",
    f"{_CHANNEL} x": "PUBLISH",
    _KEY: "DEL EXISTS GET HGETALL INCR MGET PTTL SMEMBERS STRLEN ZCARD",
    f"{_KEY} {_KEY}": "COPY RENAME",
    f"{_KEY} x": "EXPIRE GETBIT HDEL HEXISTS HGET HMGET HSCAN PEXPIRE SADD SET SREM XDEL ZRANK "
    "ZREM ZSCORE",
    f"{_KEY} x x": "GETRANGE HINCRBY HSET HSETNX PSETEX SETBIT XRANGE XREVRANGE XTRIM ZADD ZCOUNT "
    "ZRANGE ZRANGEBYSCORE ZREMRANGEBYRANK ZREVRANGE ZREVRANGEBYSCORE",
    f"{_KEY} x x x": "XADD",
}
_WITH_SUBCOMMANDS = ("CLIENT", "SCRIPT")


def _find_word(call: Sequence[str]) -> str:
    """Return the word of an ACL rule that allows a call."""
    parts = call[:2] if call[0] in _WITH_SUBCOMMANDS else call[:1]
    return f"+{'|'.join(parts).lower()}"


CALLS: dict[str, Call] = {
    _find_word(call := (name, *arguments.split())): call
    for arguments, names in _ARGUMENTS.items()
    for name in names.split()
}
"""A call of each command, by the word of a rule that allows it."""

TRANSACTIONS = ("+multi", "+exec")
"""These cannot be queued in a transaction; using them tests them."""


def build_calls(rule: str) -> dict[str, Call]:
    """Return a call for each word of a rule, patterns included, except `TRANSACTIONS`."""
    words = [word for word in rule.split() if word[0] in "+~&" and word not in TRANSACTIONS]
    subscribe = CALLS["+publish" if "+publish" in words else "+subscribe"]
    calls: dict[str, Call] = {}
    for word in words:
        name = f"{word[1:].removesuffix('*')}doctor"
        if word[0] == "~":
            calls[word] = ("EXISTS", name)
        elif word[0] == "&":
            calls[word] = (subscribe[0], name, *subscribe[2:])
        else:
            calls[word] = CALLS[word]
    return calls


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
