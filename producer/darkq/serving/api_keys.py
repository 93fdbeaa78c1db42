"""API keys: access to a gateway, for a tenant and with limits.

A key has 256 random bits and is shown once. Redis has only its SHA-256, so read access to Redis
gives no key, and a guess costs one lookup that finds nothing. A key is valid until it expires or
is revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from darkq.errors import ApiKeyNotFound, InvalidJob
from darkq.protocol.job import MAX_NAME_CHARS
from darkq.protocol.keys import API_KEYS, api_key, api_key_use
from darkq.protocol.plain import to_plain
from darkq.protocol.prompt import MAX_PROMPT_BYTES
from darkq.redis import scripts
from darkq.redis.pool import speaking_darkq
from darkq.redis.scripts import Entered
from darkq.redis.servers import read_clock_ms

MAX_RATE_PER_S = 100_000.0
MAX_CONCURRENCY = 1_000_000
MAX_MODELS = 100
MAX_BODY_BYTES = 1 << 40

_SECRET = re.compile(r"darkq_[A-Za-z0-9_-]{43}")
_ID_CHARS = 16


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The stored facts of a key. None, or no models, means no limit of its own.

    `rate_per_s` limits calls, `concurrency` those in progress at once, event streams included.
    Times are epoch milliseconds.
    """

    id: str
    name: str
    tenant: str
    created_ms: int
    expires_ms: int | None = None
    rate_per_s: float | None = None
    concurrency: int | None = None
    max_prompt_bytes: int | None = None
    max_body_bytes: int | None = None
    models: tuple[str, ...] = ()


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    v: int = 1
    digest: str
    key: ApiKey


_decoder = msgspec.json.Decoder(_Record)


class ApiKeys:
    """The API keys in a Redis. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def create(
        self,
        name: str,
        *,
        tenant: str | None = None,
        rate_per_s: float | None = None,
        concurrency: int | None = None,
        max_prompt_bytes: int | None = None,
        max_body_bytes: int | None = None,
        models: Iterable[str] = (),
        ttl_s: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key. Return its record, and the key itself, which cannot be shown again.

        By default its tenant has the key's name. Keys of the same tenant see each other's jobs.
        Raises `InvalidJob`, which names the argument.
        """
        secret = f"darkq_{secrets.token_urlsafe(32)}"
        digest = key_digest(secret)
        created_ms = int(time.time() * 1000)
        ttl_ms = int(_within("ttl_s", ttl_s, 100 * 366 * 86400.0) * 1000) if ttl_s else None
        key = ApiKey(
            id=digest[:_ID_CHARS],
            name=_name("name", name),
            tenant=_name("tenant", name if tenant is None else tenant),
            created_ms=created_ms,
            expires_ms=created_ms + ttl_ms if ttl_ms else None,
            rate_per_s=_within("rate_per_s", rate_per_s, MAX_RATE_PER_S) if rate_per_s else None,
            concurrency=_count("concurrency", concurrency, MAX_CONCURRENCY),
            max_prompt_bytes=_count("max_prompt_bytes", max_prompt_bytes, MAX_PROMPT_BYTES),
            max_body_bytes=_count("max_body_bytes", max_body_bytes, MAX_BODY_BYTES),
            models=_models(models),
        )
        record = msgspec.json.encode(_Record(digest=digest, key=key))
        async with speaking_darkq():
            await self._redis.execute_command("SADD", API_KEYS, digest)
            await self._redis.set(api_key(digest), record, px=ttl_ms)
        return key, secret

    async def listed(self) -> list[ApiKey]:
        """Return the valid keys, the oldest first."""
        async with speaking_darkq():
            digests = await self._digests()
            async with self._redis.pipeline(transaction=False) as pipe:  # of any slots
                for digest in digests:
                    pipe.get(api_key(digest))
                found: Sequence[bytes | None] = await pipe.execute()
        keys = [_decoder.decode(record).key for record in found if record is not None]
        return sorted(keys, key=lambda key: (key.created_ms, key.id))

    async def revoke(self, key_id: str) -> None:
        """Revoke a key, from the next call on. Raises `ApiKeyNotFound`."""
        async with speaking_darkq():
            for digest in await self._digests():
                if digest[:_ID_CHARS] == key_id:
                    # In this order: after an interruption in between, the key is invalid too.
                    await self._redis.delete(api_key(digest))
                    await self._redis.execute_command("SREM", API_KEYS, digest)
                    return
        raise ApiKeyNotFound(key_id)

    async def exist(self) -> bool:
        """Return True if a key was created and not revoked, even if all have expired."""
        async with speaking_darkq():
            return bool(await self._redis.exists(API_KEYS))

    async def find(self, secret: str) -> ApiKey | None:
        """Return the record of a key, or None if the key is not valid."""
        if _SECRET.fullmatch(secret) is None:
            return None
        return await self.find_by_digest(key_digest(secret))

    async def find_by_digest(self, digest: str) -> ApiKey | None:
        """Return the record of the key with this digest, or None if the key is not valid.

        Only for digests that a signature protects: a caller could copy one from Redis.
        """
        async with speaking_darkq():
            data: bytes | None = await self._redis.get(api_key(digest))
        if data is None:
            return None
        try:
            record = _decoder.decode(data)
        except msgspec.MsgspecError:  # darkq did not write it
            return None
        return record.key if hmac.compare_digest(record.digest, digest) else None

    async def good(self, digests: Iterable[str]) -> set[str]:
        """Return the digests of the keys that are neither revoked nor expired."""
        asked = list(digests)
        async with speaking_darkq(), self._redis.pipeline(transaction=False) as pipe:
            for digest in asked:  # of any slots
                pipe.exists(api_key(digest))
            found: Sequence[int] = await pipe.execute()
        return {digest for digest, exists in zip(asked, found, strict=True) if exists}

    async def enter(self, key: ApiKey, call_id: str, *, lease_s: float) -> Entered:
        """Count a call that begins, for all gateways together.

        With a `concurrency`, it holds a slot until `leave`, or until its lease has expired.
        """
        if key.rate_per_s is None and key.concurrency is None:
            return Entered("entered", 0.0)
        per_s = key.rate_per_s
        async with speaking_darkq():
            return await scripts.apikey_enter(
                self._redis,
                key.id,
                call_id,
                interval_ms=1000 / per_s if per_s else 0,
                burst=max(1, int(per_s)) if per_s else 0,
                concurrency=key.concurrency or 0,
                lease_s=lease_s,
            )

    async def renew(self, calls: Iterable[tuple[ApiKey, str]], *, lease_s: float) -> None:
        """Extend the leases of calls on their slots."""
        async with speaking_darkq():
            # By the clock of Redis, by which `apikey_enter` finds the slots that have expired.
            ends_ms = await read_clock_ms(self._redis) + lease_s * 1000
            async with self._redis.pipeline(transaction=False) as pipe:
                for key, call_id in calls:
                    places = api_key_use(key.id)[1]
                    pipe.zadd(places, {call_id: ends_ms}, xx=True)
                    pipe.pexpire(places, int(lease_s * 1000))
                await pipe.execute()

    async def leave(self, key: ApiKey, call_id: str) -> None:
        """Release a call's slot."""
        async with speaking_darkq():
            await self._redis.zrem(api_key_use(key.id)[1], call_id)

    async def _digests(self) -> list[str]:
        members: Any = await self._redis.execute_command("SMEMBERS", API_KEYS)
        return [member.decode(errors="replace") for member in members]


def key_digest(secret: str) -> str:
    """Return the digest that is stored instead of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _name(field: str, name: str) -> str:
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise InvalidJob(field, f"must be 1 to {MAX_NAME_CHARS} printable characters")
    return str(to_plain(name))


def _within(field: str, value: float, limit: float) -> float:
    if not 0 < value <= limit:
        raise InvalidJob(field, f"must be above 0 and at most {limit:g}")
    return float(value)


def _count(field: str, value: int | None, limit: int) -> int | None:
    value = to_plain(value)
    if value is not None and not (isinstance(value, int) and 1 <= value <= limit):
        raise InvalidJob(field, f"must be a whole number from 1 to {limit:,}")
    return value


def _models(models: Iterable[str]) -> tuple[str, ...]:
    checked = tuple(_name("models", model) for model in models)
    if len(checked) > MAX_MODELS:
        raise InvalidJob("models", f"are more than {MAX_MODELS}")
    return checked
