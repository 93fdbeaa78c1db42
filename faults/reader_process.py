"""A reader in a process of its own, to be frozen and killed: prints each event's id and text.

`python -m faults.reader_process REDIS_URL JOB_ID [AFTER]`
"""

from __future__ import annotations

import asyncio
import json
import sys

from darkq import Client
from darkq.event import Chunk


async def read(url: str, job_id: str, after: str | None = None) -> None:
    """Read to the end; one JSON line per event."""
    async with Client(url) as client:
        async for event in client.job(job_id).events(after):
            text = event.text if isinstance(event, Chunk) else ""
            print(json.dumps([event.id, text]), flush=True)


if __name__ == "__main__":
    asyncio.run(read(*sys.argv[1:]))
