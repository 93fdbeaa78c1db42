"""Redis over TLS. The bundled servers have none, so a proxy ends it in front of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from darkq import Client, RedisUnavailable, Settings
from darkq_local.local_darkai import LocalDarkAI
from support.servers import Server
from support.tls_proxy import in_front_of

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


async def test_a_whole_job_over_tls(
    redis_server: Server,
    authority: trustme.CA,
    ca_file: Path,
    make_settings: MakeSettings,
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    """Commands, the subscriber connection and the writer's own: all of them."""
    darkai = await start_darkai(chunks=10)
    async with in_front_of(redis_server, authority, "localhost") as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={ca_file}"
        settings = make_settings(redis_url=url, darkai_url=darkai.url)
        worker = start_worker(settings)
        async with Client(settings=settings) as client:
            job = await client.enqueue("in secret")
            text = "".join([piece async for piece in job.text()])
            assert text == (await job.result(timeout_s=10)).text != ""
        worker.cancel()
        await asyncio.wait([worker])


async def refused(url: str, make_settings: MakeSettings) -> None:
    async with Client(settings=make_settings(redis_url=url, redis_patience_s=0.05)) as client:
        with pytest.raises(RedisUnavailable):
            await client.enqueue("to nobody")


async def test_a_certificate_of_another_host_is_refused(
    redis_server: Server, authority: trustme.CA, ca_file: Path, make_settings: MakeSettings
) -> None:
    """Red without `ssl_check_hostname` in `redis/connections.py`: redis-py would not look."""
    async with in_front_of(redis_server, authority, "redis.elsewhere.example") as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={ca_file}"
        await refused(url, make_settings)
        async with Client(f"{url}&ssl_check_hostname=false") as client:
            assert (await client.enqueue("as the URL wants it")).id


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    redis_server: Server, authority: trustme.CA, make_settings: MakeSettings
) -> None:
    async with in_front_of(redis_server, authority, "localhost") as port:
        await refused(f"rediss://localhost:{port}", make_settings)
        async with Client(f"rediss://localhost:{port}?ssl_cert_reqs=none") as client:
            assert (await client.enqueue("as the URL wants it")).id


async def test_a_client_certificate_can_be_shown(
    redis_server: Server, authority: trustme.CA, ca_file: Path, make_settings: MakeSettings
) -> None:
    ours = authority.issue_cert("producer.example")
    pem = ca_file.with_name("producer.pem")
    ours.private_key_and_cert_chain_pem.write_to_path(str(pem))
    async with in_front_of(redis_server, authority, "localhost", asks=True) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={ca_file}"
        await refused(url, make_settings)
        async with Client(f"{url}&ssl_certfile={pem}&ssl_keyfile={pem}") as client:
            assert (await client.enqueue("it is me")).id


async def test_plain_text_is_not_spoken_to_a_tls_port(
    redis_server: Server, authority: trustme.CA, make_settings: MakeSettings
) -> None:
    async with in_front_of(redis_server, authority, "localhost") as port:
        await refused(f"redis://localhost:{port}", make_settings)
