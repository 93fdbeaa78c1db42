"""Bodies that mean harm, and requests that carry them. `support.attackers` sends them."""

from __future__ import annotations

import zlib
from collections.abc import Callable

BOUNDARY = b"BBB"

PART = b'--BBB\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
FILE = b'--BBB\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
UPLOADS: dict[str, Callable[[], bytes]] = {
    "newlines before the boundary": lambda: b"\n" * (16 << 20),
    "line ends before the boundary": lambda: b"\r\n" * (8 << 20),
    "hyphens before the boundary": lambda: b"\r\n-" * (5 << 20),
    "a preamble": lambda: b"x" * (16 << 20) + b"\r\n" + FILE,
    "a boundary that goes on": lambda: b"--BBB" + b" " * (16 << 20),
    "spaces after the boundary of a file": lambda: FILE + b"x\r\n--BBB" + b" " * (16 << 20),
    "what looks like the boundary, in the file": lambda: FILE + b"\r\n--BBBx" * (2 << 20),
    "nearly the boundary, in the file": lambda: FILE + b"\r\n--BB" * (2 << 20),
    "carriage returns in the file": lambda: FILE + b"\r" * (16 << 20),
    "a header without an end": lambda: b"--BBB\r\nX: " + b"x" * (16 << 20),
    "a header's name without an end": lambda: b"--BBB\r\n" + b"x" * (16 << 20),
    "spaces in a header": lambda: b"--BBB\r\nX:" + b" " * (16 << 20),
    "headers without end": lambda: b"--BBB\r\n" + b"X: y\r\n" * (2 << 20),
    "parts without end": lambda: (PART % b"purpose" + b"batch\r\n") * 200_000,
    "empty parts": lambda: b"--BBB\r\n\r\n\r\n" * (1 << 20),
    "a field without an end": lambda: PART % b"purpose" + b"b" * (16 << 20),
    "what follows the last boundary": lambda: FILE + b"x\r\n--BBB--\r\n" + b"\n" * (16 << 20),
}
"""Make bodies of `multipart/form-data; boundary=BBB`, each of 4 to 20 MB."""


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
