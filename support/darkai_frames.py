"""DarkAI's frames as its servers send them: ASCII-escaped JSON, CRLF."""

from __future__ import annotations

import json
from typing import Any


def frame(event: str, **data: Any) -> bytes:
    body = {"event": event, "data": {"event_type": event, **data}}
    name = b"event: error\r\n" if event == "error" else b""
    return name + b"data: " + json.dumps(body).encode() + b"\r\n\r\n"


def chunk(text: str) -> bytes:
    return frame("text-chunk", text=text)


BEGIN = frame("begin-stream", query="…")
END = frame("stream-end")
PING = b": ping - 2025-01-10 12:00:15.000000+00:00\r\n\r\n"


def final(message: str) -> bytes:
    return frame("final-response", message=message)


def error(detail: str) -> bytes:
    return frame("error", detail=detail)
