"""What a URL says of Redis."""

from __future__ import annotations

import pytest
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection

from darkq.redis.url import Address, WrongOption, parse


@pytest.mark.parametrize(
    ("url", "kind", "options"),
    [
        ("redis://", Connection, {}),
        ("redis://h:1/2", Connection, {"host": "h", "port": 1, "db": 2}),
        ("rediss://u:p%40@h", SSLConnection, {"host": "h", "username": "u", "password": "p@"}),
        ("unix:///run/r.sock", UnixDomainSocketConnection, {"path": "/run/r.sock"}),
    ],
)
def test_one_server(url: str, kind: type, options: dict[str, object]) -> None:
    found = parse(url)
    assert found.kind == "server"
    assert (found.connection_class, found.options) == (kind, options)


def test_a_cluster_by_some_of_its_nodes() -> None:
    found = parse("redis+cluster://u:p%40@a:7000,b,[::1]:7002?client_name=x")
    assert found.kind == "cluster"
    assert found.addresses == (Address("a", 7000), Address("b", 6379), Address("::1", 7002))
    assert found.options == {"username": "u", "password": "p@", "client_name": "x"}
    assert found.connection_class is Connection


def test_a_cluster_with_tls() -> None:
    found = parse("rediss+cluster://a?ssl_ca_certs=/ca.pem")
    assert found.connection_class is SSLConnection
    assert found.options == {"ssl_ca_certs": "/ca.pem"}


@pytest.mark.parametrize("path", ["", "/", "/0"])
def test_a_cluster_has_database_0(path: str) -> None:
    assert parse(f"redis+cluster://a{path}").kind == "cluster"


def test_sentinels() -> None:
    found = parse("redis+sentinel://:p@s1,s2:5/mymaster/3?sentinel_password=q")
    assert found.kind == "sentinel"
    assert found.addresses == (Address("s1", 26379), Address("s2", 5))
    assert found.service == "mymaster"
    assert found.options == {"password": "p", "db": 3}
    assert found.sentinel_options == {"password": "q"}


def test_sentinels_speak_tls_as_the_master_does() -> None:
    found = parse("rediss+sentinel://s1/m?ssl_ca_certs=/ca.pem&sentinel_username=u")
    assert found.connection_class is SSLConnection
    assert found.options == {"ssl_ca_certs": "/ca.pem"}
    assert found.sentinel_options == {"username": "u", "ssl_ca_certs": "/ca.pem"}


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://a,,b",
        "redis+cluster://a/1",
        "redis+cluster://a?db=1",
        "redis+cluster://a:port",
        "redis+sentinel://a",
        "redis+sentinel://a/m/x",
        "redis+sentinel:///m",
        "unix+cluster://a",
        "http+cluster://a",
        "redis+shard://a",
    ],
)
def test_what_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(url)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://h?max_connections=20&socket_timeout=5&socket_connect_timeout=3", {"host": "h"}),
        ("redis://h?timeout=20&decode_responses=True&encoding=utf-8", {"host": "h"}),
        ("redis://h/1\n", {"host": "h", "db": 1}),
        ("redis://h?ssl=false", {"host": "h"}),
        ("rediss://h?ssl=True", {"host": "h"}),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", {"host": "h", "ssl_cert_reqs": "none"}),
        ("rediss://h?ssl_cert_reqs=ssl.CERT_NONE", {"host": "h", "ssl_cert_reqs": "none"}),
        ("rediss://h?ssl_cert_reqs=None", {"host": "h", "ssl_cert_reqs": "none"}),
        ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", {"host": "h", "ssl_cert_reqs": "required"}),
        ("rediss://h?ssl_cert_reqs=required", {"host": "h", "ssl_cert_reqs": "required"}),
        ("rediss://h?ssl_cert_reqs=CERT_OPTIONAL", {"host": "h", "ssl_cert_reqs": "optional"}),
        ("rediss://h?ssl_cert_reqs=0", {"host": "h", "ssl_cert_reqs": "none"}),
        ("redis+socket:///run/r.sock?virtual_host=2", {"path": "/run/r.sock", "db": 2}),
        ("unix:///run/r.sock?db=2&max_connections=9", {"path": "/run/r.sock", "db": 2}),
    ],
)
def test_as_other_libraries_write_it(url: str, options: dict[str, object]) -> None:
    """Red when an option that is darkq's own reaches redis-py, or Celery's spelling does."""
    assert parse(url).options == options


@pytest.mark.parametrize("value", ["true", "True", "1", "yes"])
def test_tls_by_an_option(value: str) -> None:
    assert parse(f"redis://h?ssl={value}").connection_class is SSLConnection
    assert parse(f"redis+sentinel://h/m?ssl={value}").connection_class is SSLConnection


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://:hunter2@h?db=hunter2", "db"),
        ("redis://:hunter2@h?ssl=hunter2", "ssl"),
        ("rediss://:hunter2@h?ssl_cert_reqs=hunter2", "ssl_cert_reqs"),
        ("rediss://:hunter2@h?ssl_min_version=hunter2", "ssl_min_version"),
        ("redis://:hunter2@h?ssl_cert_reqs=required", "ssl_cert_reqs"),
        ("redis://:hunter2@h?socket_read_size=hunter2", "socket_read_size"),
        ("redis://:hunter2@h?health_check_interval=hunter2", "health_check_interval"),
        ("redis+cluster://:hunter2@h?ssl_ca_certs=/ca", "ssl_ca_certs"),
    ],
)
def test_a_wrong_option_is_named_and_its_value_is_not(url: str, named: str) -> None:
    with pytest.raises(WrongOption, match=named) as caught:
        parse(url)
    assert "hunter2" not in str(caught.value)
