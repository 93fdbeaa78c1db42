"""Parses `DARKQ_REDIS_URL`: servers, their kind, and options of connections. No I/O.

    redis://user:password@host:6379/0                        one server; rediss:// with TLS
    unix:///run/redis.sock                                   one server of this machine
    redis+sentinel://…@host:26379,host:26379/service/0       the master that the Sentinels name
    redis+cluster://…@host:6379,host:6379                    a cluster, by some of its nodes

`rediss+sentinel://` and `rediss+cluster://` use TLS, to Sentinels too. Credentials for Sentinels,
if they differ, are `?sentinel_username=…&sentinel_password=…`.

A URL is often shared with other libraries. So the spellings of Celery and Django are accepted.
Options for which darkq has settings (pools, timeouts), or that it does not use (encodings), are
ignored.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import SplitResult, urlsplit

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import parse_url

Kind: TypeAlias = Literal["server", "sentinel", "cluster"]

_IGNORED = frozenset(
    (
        *("max_connections", "timeout", "socket_timeout", "socket_connect_timeout"),
        *("decode_responses", "encoding", "encoding_errors", "charset", "errors"),
    )
)
_CERT_REQS = {"none": "none", "optional": "optional", "required": "required"} | {
    str(int(mode)): mode.name.removeprefix("CERT_").lower() for mode in ssl.VerifyMode
}
_TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_YES, _NO = ("1", "true", "yes", "y", "on"), ("0", "false", "no", "n", "off", "none", "")

SENTINEL_PORT = 26379
SERVER_PORT = 6379


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class RedisUrl(NamedTuple):
    """A parsed URL.

    `addresses` are those of the Sentinels, or of some nodes of the cluster; `service` is the name
    of the master at the Sentinels. `options` are redis-py's for a connection to a server,
    `sentinel_options` those for a connection to a Sentinel.
    """

    kind: Kind
    connection_class: type[Any]
    options: dict[str, Any]
    addresses: tuple[Address, ...] = ()
    service: str = ""
    sentinel_options: dict[str, Any] = {}  # noqa: RUF012


class WrongOption(ValueError):
    """An invalid option of a URL. The text names the option and quotes no value."""


def parse(url: str) -> RedisUrl:
    """Parse a URL.

    Raises `WrongOption`, or `ValueError`, whose text may quote the URL with its password.
    """
    scheme, _, kind = urlsplit(url).scheme.partition("+")
    # A `?` in a password begins the query, and errors would quote the rest of it as an option.
    if "@" in urlsplit(url).query and scheme != "unix":
        raise ValueError("a question mark in a password is written %3F")
    if (scheme, kind) == ("redis", "socket"):  # Celery's name
        scheme, kind, url = "unix", "", "unix:" + url.partition(":")[2]
    if not kind:
        options = _read(url)
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
    """Return the options that redis-py reads from a URL of one server, without its address."""
    userinfo, at, _ = parts.netloc.rpartition("@")
    query = f"?{parts.query}" if parts.query else ""
    options = _read(f"{scheme}://{userinfo}{at}host{path}{query}")
    del options["host"]
    return options


def _read(url: str) -> dict[str, Any]:
    """Return a URL's options by redis-py's names, from the spellings of several libraries."""
    try:
        found: dict[str, Any] = {**parse_url(url)}
    except ValueError as error:
        if named := re.match(r"Invalid value for '(\w+)'", str(error)):
            raise WrongOption(f"has an invalid {named[1]}") from None
        raise
    options = {name: value for name, value in found.items() if name not in _IGNORED}
    if "virtual_host" in options:  # Celery's name, for a socket
        options["db"] = _number("virtual_host", options.pop("virtual_host"))
    if "socket_read_size" in options:
        options["socket_read_size"] = _number("socket_read_size", options["socket_read_size"])
    if "ssl" in options and (given := options.pop("ssl").lower()) not in _NO:
        if given not in _YES:
            raise WrongOption("has an invalid ssl: must be true or false")
        options["connection_class"] = SSLConnection
    _read_tls(options)
    return options


def _read_tls(options: dict[str, Any]) -> None:
    """Check the options of TLS, and normalize them in place."""
    if options.get("connection_class") is not SSLConnection:
        for name in options:
            if name.startswith("ssl_"):
                raise WrongOption(f"has {name}, which needs TLS: rediss:// instead of redis://")
    if "ssl_cert_reqs" in options:
        given = options["ssl_cert_reqs"].lower().removeprefix("ssl.").removeprefix("cert_")
        options["ssl_cert_reqs"] = _one_of("ssl_cert_reqs", given, _CERT_REQS)
    if "ssl_min_version" in options:
        given = options["ssl_min_version"].lower().removeprefix("tlsv").replace("_", ".")
        options["ssl_min_version"] = _one_of("ssl_min_version", given, _TLS_VERSIONS)


def _one_of(name: str, given: str, known: Mapping[str, Any]) -> Any:
    if given not in known:
        words = ", ".join(word for word in known if len(known) < 4 or not word.isdigit())
        raise WrongOption(f"has an invalid {name}: must be one of {words}")
    return known[given]


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise WrongOption(f"has an invalid {name}: must be a whole number")
    return int(value)


def _addresses(parts: SplitResult, default_port: int) -> tuple[Address, ...]:
    hosts = parts.netloc.rpartition("@")[2].split(",")
    found = [urlsplit(f"//{host}") for host in hosts]
    if not all(each.hostname for each in found):
        raise ValueError("a host is missing")
    return tuple(Address(each.hostname or "", each.port or default_port) for each in found)
