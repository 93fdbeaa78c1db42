"""Bodies that mean harm: what is sent, who sends it, and what a healthy caller feels meanwhile.

    python -m support.attacks URL [KEY]      eight bombs and eight hostile uploads at once

Prints what a caller of /healthz felt meanwhile, in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http.client import HTTPConnection
from typing import NamedTuple
from urllib.parse import urlsplit

BOUNDARY = b"BBB"
AT_ONCE = 8
PAUSE_S = 0.25
"""Between the requests of one attacker: else the figure is of how fast bytes can be moved."""

PART = b'--BBB\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
FILE = b'--BBB\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
UPLOADS: dict[str, bytes] = {
    "newlines before the boundary": b"\n" * (16 << 20),
    "line ends before the boundary": b"\r\n" * (8 << 20),
    "hyphens before the boundary": b"\r\n-" * (5 << 20),
    "a preamble": b"x" * (16 << 20) + b"\r\n" + FILE,
    "a boundary that goes on": b"--BBB" + b" " * (16 << 20),
    "spaces after the boundary of a file": FILE + b"x\r\n--BBB" + b" " * (16 << 20),
    "what looks like the boundary, in the file": FILE + b"\r\n--BBBx" * (2 << 20),
    "nearly the boundary, in the file": FILE + b"\r\n--BB" * (2 << 20),
    "carriage returns in the file": FILE + b"\r" * (16 << 20),
    "a header without an end": b"--BBB\r\nX: " + b"x" * (16 << 20),
    "a header's name without an end": b"--BBB\r\n" + b"x" * (16 << 20),
    "spaces in a header": b"--BBB\r\nX:" + b" " * (16 << 20),
    "headers without end": b"--BBB\r\n" + b"X: y\r\n" * (2 << 20),
    "parts without end": (PART % b"purpose" + b"batch\r\n") * 200_000,
    "empty parts": b"--BBB\r\n\r\n\r\n" * (1 << 20),
    "a field without an end": PART % b"purpose" + b"b" * (16 << 20),
    "what follows the last boundary": FILE + b"x\r\n--BBB--\r\n" + b"\n" * (16 << 20),
}
"""Bodies of `multipart/form-data; boundary=BBB`, each of 4 to 20 MB."""


def bomb(unpacked_bytes: int) -> bytes:
    """Return a gzip stream a thousandth as long as what it unpacks to."""
    piece_bytes = 1 << 24
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(piece_bytes)) + packer.flush(zlib.Z_FULL_FLUSH)
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    return head + piece * (unpacked_bytes // piece_bytes)


def upload_request(body: bytes, key: str | None = None) -> bytes:
    """Return a request that uploads a multipart body."""
    return request(
        "POST", "/v1/files", body, key, **{"Content-Type": "multipart/form-data; boundary=BBB"}
    )


def bomb_request(body: bytes, key: str | None = None, path: str = "/jobs") -> bytes:
    """Return a request with a gzip body."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    return request("POST", path, body, key, **headers)


def request(method: str, path: str, body: bytes, key: str | None = None, **headers: str) -> bytes:
    """Return a request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


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


@asynccontextmanager
async def attackers(url: str, key: str | None) -> AsyncIterator[None]:
    """Attack from a process of its own, so that it does not slow the probe down."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.attacks", "attack", url, *([key] if key else [])),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"attacking\n"
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def figures(url: str, key: str | None, for_s: float) -> Figures:
    """Return what /healthz takes while eight bombs and eight hostile uploads go on at once."""
    async with attackers(url, key):
        return await asyncio.to_thread(probe, url, for_s)


def attack(url: str, key: str | None) -> None:
    """Keep eight bombs and eight hostile uploads under way until the process is killed."""
    os.nice(10)  # what is measured is the gateway, not who gets the processor
    bombs = [bomb_request(bomb(4 << 30), who) for who in (None, key)]
    uploads = [upload_request(body, key) for body in UPLOADS.values()]
    address = urlsplit(url)
    target = (address.hostname or "127.0.0.1", address.port or 80)
    for number in range(AT_ONCE):
        some = uploads[number % len(uploads) :: AT_ONCE] or uploads
        for requests in (bombs, some):
            threading.Thread(target=_send_all, args=(target, requests), daemon=True).start()
    print("attacking", flush=True)
    threading.Event().wait()


def _send_all(target: tuple[str, int], requests: list[bytes]) -> None:
    while True:
        for each in requests:
            with suppress(OSError), socket.create_connection(target, timeout=30) as connection:
                sender = threading.Thread(target=_send, args=(connection, each), daemon=True)
                sender.start()
                connection.recv(1 << 16)
                sender.join(2)  # it stays, and goes on sending if it may
            time.sleep(PAUSE_S)


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        connection.sendall(data)


def main(arguments: list[str]) -> None:
    """Attack, or attack and say what a healthy caller felt."""
    only_attack = arguments[0] == "attack"
    url, key, *_ = [*arguments[only_attack:], None]
    assert url is not None
    if only_attack:
        attack(url, key)
    else:
        print(json.dumps(asyncio.run(figures(url, key, 20.0))._asdict()))


if __name__ == "__main__":
    main(sys.argv[1:])
