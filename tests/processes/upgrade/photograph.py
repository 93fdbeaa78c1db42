"""Everything in a Redis as lines of JSON, and back: a dump that any server can read.

`DUMP` and `RESTORE` speak the format of one server's files. This speaks commands, so what
Valkey held can be put into Redis 6.2. Bytes are kept as Latin-1, one character each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from redis.asyncio import Redis


class Kept(msgspec.Struct, frozen=True):
    """A key, its type and what it holds. `ttl_ms` is -1 for a permanent one."""

    key: str
    type: str
    ttl_ms: int
    value: Any


async def take(redis: Redis) -> list[Kept]:
    """Return all keys of a database, sorted."""
    return [await _kept(redis, key) for key in sorted(await redis.keys("*"))]


async def put_back(redis: Redis, kept: Iterable[Kept]) -> None:
    """Write keys as they were, each with the time to live that it had."""
    for each in kept:
        await _write(redis, each)
        if each.ttl_ms >= 0:
            await redis.pexpire(each.key.encode("latin-1"), each.ttl_ms)


def encode(kept: Iterable[Kept]) -> bytes:
    """Return keys as lines of JSON."""
    return b"".join(msgspec.json.encode(each) + b"\n" for each in kept)


def decode(lines: bytes) -> list[Kept]:
    """Read what `encode` has written."""
    return [msgspec.json.decode(line, type=Kept) for line in lines.splitlines()]


async def _kept(redis: Any, key: bytes) -> Kept:
    kind = (await redis.type(key)).decode()
    value: Any
    match kind:
        case "string":
            value = _text(await redis.get(key))
        case "hash":
            value = {_text(name): _text(of) for name, of in (await redis.hgetall(key)).items()}
        case "set":
            value = sorted(map(_text, await redis.smembers(key)))
        case "zset":
            value = [[_text(m), s] for m, s in await redis.zrange(key, 0, -1, withscores=True)]
        case "stream":
            value = [
                [_text(id_), {_text(name): _text(of) for name, of in fields.items()}]
                for id_, fields in await redis.xrange(key)
            ]
        case _:
            raise AssertionError(f"{key!r} is a {kind}")
    return Kept(_text(key), kind, await redis.pttl(key), value)


async def _write(redis: Any, kept: Kept) -> None:
    key, value = _bytes(kept.key), kept.value
    match kept.type:
        case "string":
            await redis.set(key, _bytes(value))
        case "hash":
            await redis.hset(key, mapping={_bytes(name): _bytes(of) for name, of in value.items()})
        case "set":
            await redis.sadd(key, *map(_bytes, value))
        case "zset":
            await redis.zadd(key, {_bytes(member): score for member, score in value})
        case "stream":
            for id_, fields in value:
                of = {_bytes(name): _bytes(of) for name, of in fields.items()}
                await redis.xadd(key, of, id=id_)


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")
