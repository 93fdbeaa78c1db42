"""`httpx-sse` decodes a response of httpx. The loop around it reconnects."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress

import httpx
from httpx_sse import connect_sse

ENDS = ("completed", "failed", "cancelled")


class Reader:
    """Reads one URL over any number of connections."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.last_id = ""
        self.retry_s = 1.0

    def read(self, client: httpx.Client) -> int | str | None:
        """Read one response; return what to stop at, or None to reconnect."""
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        with connect_sse(client, "GET", self.url, headers=headers) as source:
            status = source.response.status_code
            if status != 200:
                is_final = status == 204 or (400 <= status < 500 and status != 429)
                return status if is_final else None
            for event in source.iter_sse():
                data = event.json()
                print(json.dumps({"id": event.id, "data": data}), flush=True)
                self.last_id = event.id
                self.retry_s = event.retry / 1000 if event.retry else self.retry_s
                if data["type"] in ENDS:
                    return str(data["type"])
        return None


reader, stop = Reader(sys.argv[1]), None
with httpx.Client(timeout=httpx.Timeout(10, read=60)) as client:  # the gateway pings every 15 s
    while stop is None:
        with suppress(httpx.TransportError):  # the connection was lost
            stop = reader.read(client)
        if stop is None:
            time.sleep(reader.retry_s)
print(json.dumps({"stop": stop}))
