"""Attackers of a gateway, in a process of their own, and what a healthy caller feels meanwhile.

    python -m support.attackers KIND URL [KEY]      attack until the end of the standard input;
                                                    print the counts after each line of it
    python -m support.attackers probe URL [KEY]     eight bombs and eight hostile uploads at once;
                                                    prints what a caller of /healthz felt, in ms

`KIND` is one of `KINDS`. They run at a lower priority than the gateway: what is measured is the
gateway, not who gets the processor.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from http.client import HTTPConnection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from support.attacks import FILE, PART, UPLOADS, bomb, bomb_request, upload_request
from support.http_api import Api
from support.raw_http import is_open, make_request

AT_ONCE = 8
PAUSE_S = 0.25
"""Between the requests of one attacker: else the figure is of how fast bytes can be moved."""
HELD = 500
SLOW = 150
PIPELINE = 200

counted: Counter[str] = Counter()
"""Of this process, if it attacks."""


class Target(NamedTuple):
    """A gateway, and a key for it."""

    url: str
    key: str | None

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    @property
    def authorization(self) -> tuple[str, ...]:
        return (f"Authorization: Bearer {self.key}",) if self.key else ()


def _bombs(target: Target) -> None:
    """Eight at once of 4 MB that unpack to 4 GiB, with a key and without."""
    paths = itertools.product(("/jobs", "/healthz"), (None, target.key))
    requests = [bomb_request(bomb(4 << 30), key, path) for path, key in paths]
    for _ in range(AT_ONCE):
        _in_background(_send_all, target, requests)


def _uploads(target: Target) -> None:
    """Eight hostile uploads at once."""
    requests = [upload_request(body(), target.key) for body in UPLOADS.values()]
    for number in range(AT_ONCE):
        _in_background(_send_all, target, requests[number::AT_ONCE])


def _bodies(target: Target) -> None:
    """Eight bombs and eight hostile uploads at once."""
    _bombs(target)
    _uploads(target)


def _deaf(target: Target) -> None:
    """Clients that take nothing: without a key, and of a file that no socket holds."""
    style = make_request("GET", "/board/board.css") * 600
    _in_background(_hold, target, HELD, style)
    _in_background(_hold, target, HELD // 10, _large_file(target))


def _slow(target: Target) -> None:
    """Clients that take a little of a large file, now and then."""
    _in_background(_hold, target, SLOW, _large_file(target), takes=4096)


def _halves(target: Target) -> None:
    """Clients that send half of a request's head, and a byte of it now and then."""
    half = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: "
    _in_background(_hold, target, HELD, half, sends=b"x")


def _idle(target: Target) -> None:
    """Clients that connect and send nothing."""
    _in_background(_hold, target, HELD, b"")


def _heads(target: Target) -> None:
    """HEAD of many paths, in long pipelines; whatever comes must be that many heads."""
    paths = ("/jobs/x/events", "/board/overview", "/board/board.css", "/jobs?limit=1", "/healthz")
    heads = [make_request("HEAD", path, *target.authorization) for path in paths]
    for _ in range(AT_ONCE):
        _in_background(_pipeline, target, heads)


def _storm(target: Target) -> None:
    """Callers who create, read, cancel, run again and delete at once, and leave in between."""
    _in_background(lambda: asyncio.run(_storming(target)))


KINDS: dict[str, Callable[[Target], None]] = {
    "bombs": _bombs,
    "uploads": _uploads,
    "bodies": _bodies,
    "deaf": _deaf,
    "slow": _slow,
    "halves": _halves,
    "idle": _idle,
    "heads": _heads,
    "storm": _storm,
}


def _send_all(target: Target, requests: list[bytes]) -> None:
    while True:
        for each in requests:
            with suppress(OSError), socket.create_connection(target.address, 30) as connection:
                sender = _in_background(_send, connection, each)
                counted[f"status {connection.recv(1 << 16)[9:12].decode()}"] += 1
                sender.join(2)  # it stays, and goes on sending if it may
            time.sleep(PAUSE_S)


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        connection.sendall(data)


def _hold(target: Target, count: int, first: bytes, *, sends: bytes = b"", takes: int = 0) -> None:
    """Hold connections, and replace those that the server closes; `counted` tells of both."""
    clients: list[socket.socket] = []
    while True:
        for client in [client for client in clients if not is_open(client)]:
            counted["closed"] += 1
            clients.remove(client)
            client.close()
        for client in clients:
            with suppress(OSError):
                client.send(sends)
                counted["bytes taken"] += len(client.recv(takes)) if takes else 0
        while len(clients) < count:
            clients.append(_connect(target, first))
            counted["opened"] += 1
        time.sleep(0.1)


def _connect(target: Target, first: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(target.address)
    client.setblocking(False)
    with suppress(OSError):
        client.send(first)
    return client


def _large_file(target: Target) -> bytes:
    """Upload a file; return a request for its content."""
    body = PART % b"purpose" + b"batch\r\n" + FILE + b"x" * (16 << 20) + b"\r\n--BBB--\r\n"
    with socket.create_connection(target.address, 60) as connection:
        connection.sendall(upload_request(body, target.key))
        answer = connection.makefile("rb").read().partition(b"\r\n\r\n")[2]
    file_id = json.loads(answer)["id"]
    return make_request("GET", f"/v1/files/{file_id}/content", *target.authorization)


def _pipeline(target: Target, heads: list[bytes]) -> None:
    sent = b"".join(itertools.islice(itertools.cycle(heads), PIPELINE))
    sent += make_request("HEAD", "/healthz", "Connection: close")
    while True:
        with socket.create_connection(target.address, 60) as connection:
            _in_background(_send, connection, sent)
            found = connection.makefile("rb").read().split(b"\r\n\r\n")
        is_right = all(each.startswith(b"HTTP/1.1 ") for each in found[:-1])
        if not is_right or len(found) > PIPELINE + 2:
            counted["wrong pipelines"] += 1
        else:
            counted["pipelines" if len(found) == PIPELINE + 2 else "pipelines cut off"] += 1


async def _storming(target: Target) -> None:
    async with Api(target.url, target.key) as api, asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            group.create_task(_rage(api, random.Random(number)))


async def _rage(api: Api, rng: random.Random) -> None:
    ids = list[str]()
    while True:
        method, path, body = rng.choice(list(_steps(rng.choice(ids) if ids else "0-0")))
        with suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(rng.choice((0.01, 0.05, 0.5))):
                answer = await api(method, path, body)
                counted[f"status {answer.status}"] += 1
                if answer.status >= 500:
                    counted[f"{answer.status} {answer.code} {path.partition('/')[0]}"] += 1
                if answer.status == 201:
                    ids = [*ids[-20:], answer.json["job_id"]]
        await asyncio.sleep(0.005)


def _steps(job_id: str) -> Iterator[tuple[str, str, Any]]:
    for _ in range(3):
        yield "POST", "/jobs", {"prompt": "storm"}
        yield "POST", f"/jobs/{job_id}/cancel", None
    yield "POST", f"/jobs/{job_id}/retry", None
    yield "GET", f"/jobs/{job_id}/events", None
    yield "GET", f"/jobs/{job_id}/result?wait_s=0.1", None
    yield "GET", "/jobs?limit=20", None
    yield "DELETE", f"/v1/responses/resp_{job_id}", None
    yield "GET", f"/v1/responses/resp_{job_id}?stream=true", None


def _in_background(work: Callable[..., None], *arguments: Any, **options: Any) -> threading.Thread:
    def run() -> None:
        with suppress(OSError):  # the gateway has ended
            work(*arguments, **options)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def attack(kind: str, target: Target) -> None:
    """Attack until the end of the standard input; each line of it is answered with the counts."""
    os.nice(10)
    KINDS[kind](target)
    print("attacking", flush=True)
    for _ in sys.stdin:
        print(json.dumps(dict(counted)), flush=True)
    os._exit(0)  # also when the process that started this one has been killed


class Attack:
    """A process that attacks."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def counted(self) -> Counter[str]:
        """Return what the attackers have seen until now."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return Counter(json.loads(await self.line()))

    async def line(self) -> bytes:
        assert self._process.stdout is not None
        return await asyncio.wait_for(self._process.stdout.readline(), 60)


@asynccontextmanager
async def attackers(kind: str, url: str, key: str | None) -> AsyncIterator[Attack]:
    """Attack for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.attackers", kind, url, *([key] if key else [])),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    attack = Attack(process)
    try:
        assert await attack.line() == b"attacking\n"
        yield attack
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


class Figures(NamedTuple):
    """What a caller of /healthz felt, in milliseconds."""

    probes: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


def probe(url: str, for_s: float, pause_s: float = 0.01) -> Figures:
    """Ask for /healthz again and again over one connection."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    took = list[float]()
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        began = time.monotonic()
        connection.request("GET", "/healthz")
        with connection.getresponse() as response:
            assert response.status == 200, response.status
            response.read()
        took.append((time.monotonic() - began) * 1000)
        time.sleep(pause_s)
    connection.close()
    took.sort()
    return Figures(len(took), statistics.median(took), took[len(took) * 99 // 100], took[-1])


async def figures(url: str, key: str | None, for_s: float) -> Figures:
    """Return what /healthz takes while eight bombs and eight hostile uploads go on at once."""
    async with attackers("bodies", url, key):
        return await asyncio.to_thread(probe, url, for_s)


def main(kind: str, url: str, key: str | None = None) -> None:
    """Attack, or attack and say what a healthy caller felt."""
    if kind == "probe":
        print(json.dumps(asyncio.run(figures(url, key, 20.0))._asdict()))
    else:
        attack(kind, Target(url, key))


if __name__ == "__main__":
    main(*sys.argv[1:])
