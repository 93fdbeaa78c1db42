"""What `DARKQ_REDIS_URL` says: which servers, of which kind, and how to speak to them. No I/O.

    redis://user:password@host:6379/0                        one server; rediss:// with TLS
    unix:///run/redis.sock                                   one server of this machine
    redis+sentinel://…@host:26379,host:26379/service/0       the master that the Sentinels name
    redis+cluster://…@host:6379,host:6379                    a cluster, by some of its nodes

`rediss+sentinel://` and `rediss+cluster://` speak TLS, to Sentinels too. Sentinels that ask for
credentials of their own find them in `?sentinel_username=…&sentinel_password=…`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import SplitResult, urlsplit

from redis.asyncio import Connection
from redis.asyncio.connection import parse_url

Kind: TypeAlias = Literal["server", "sentinel", "cluster"]

SENTINEL_PORT = 26379
SERVER_PORT = 6379


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class RedisUrl(NamedTuple):
    """A URL taken apart.

    `addresses` are those of the Sentinels, or of some nodes of the cluster; `service` is the name
    that Sentinels know the master by. `options` are redis-py's, for a connection to a server;
    `sentinel_options` those for one to a Sentinel.
    """

    kind: Kind
    connection_class: type[Any]
    options: dict[str, Any]
    addresses: tuple[Address, ...] = ()
    service: str = ""
    sentinel_options: dict[str, Any] = {}  # noqa: RUF012


def parse(url: str) -> RedisUrl:
    """Read a URL. Raises `ValueError`; its text may quote the URL, password and all."""
    scheme, _, kind = urlsplit(url).scheme.partition("+")
    if not kind:
        options: dict[str, Any] = {**parse_url(url)}
        return RedisUrl("server", options.pop("connection_class", Connection), options)
    if scheme not in ("redis", "rediss"):
        raise ValueError(f"no such scheme: {scheme!r}")
    if kind == "sentinel":
        return _sentinel(scheme, urlsplit(url))
    if kind == "cluster":
        return _cluster(scheme, urlsplit(url))
    raise ValueError(f"no such kind of Redis: {kind!r}")


def _cluster(scheme: str, parts: SplitResult) -> RedisUrl:
    options = _options(scheme, parts, parts.path)
    if options.pop("db", 0) != 0 or parts.path.strip("/") not in ("", "0"):
        raise ValueError("a cluster has no database but 0")
    kind = options.pop("connection_class", Connection)
    return RedisUrl("cluster", kind, options, _addresses(parts, SERVER_PORT))


def _sentinel(scheme: str, parts: SplitResult) -> RedisUrl:
    service, _, db = parts.path.strip("/").partition("/")
    if not service or not (db or "0").isdigit():
        raise ValueError("the path must be /service or /service/database")
    options = _options(scheme, parts, f"/{db}" if db else "")
    kind = options.pop("connection_class", Connection)
    own = {
        name: options.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in options
    }
    shared = {name: value for name, value in options.items() if name.startswith("ssl_")}
    addresses = _addresses(parts, SENTINEL_PORT)
    return RedisUrl("sentinel", kind, options, addresses, service, {**shared, **own})


def _options(scheme: str, parts: SplitResult, path: str) -> dict[str, Any]:
    """Return what redis-py reads from the URL of one server, but where that is."""
    userinfo, at, _ = parts.netloc.rpartition("@")
    query = f"?{parts.query}" if parts.query else ""
    options: dict[str, Any] = {**parse_url(f"{scheme}://{userinfo}{at}host{path}{query}")}
    del options["host"]
    return options


def _addresses(parts: SplitResult, default_port: int) -> tuple[Address, ...]:
    hosts = parts.netloc.rpartition("@")[2].split(",")
    found = [urlsplit(f"//{host}") for host in hosts]
    if not all(each.hostname for each in found):
        raise ValueError("a host is missing")
    return tuple(Address(each.hostname or "", each.port or default_port) for each in found)
