"""A tenant that does no harm, beside one that does: what its requests and its streams take."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any, Self

import aiohttp

from darkq.event import Cursor
from faults.check import Tally
from faults.stage import Stage
from support.http_api import Api

PAUSE_S = 0.01


class Neighbour:
    """Asks about its job again and again, and meanwhile follows one job after the other to its end.

    `tally` says what was not as it should be; `requests_s` what each request took, and `gaps_s`
    how long its streams were silent between two events. An async context manager; `finish` it
    before its figures are read.
    """

    def __init__(self, stage: Stage, url: str, key: str) -> None:
        self.tally = Tally()
        self.requests_s: list[float] = []
        self.gaps_s: list[float] = []
        self._stage = stage
        self._api = Api(url, key)
        self._job_id = ""
        self._leaving = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._api)
        self._job_id = await self._enqueue(self._stage.prompt())
        self._tasks = [asyncio.create_task(work()) for work in (self._asking, self._following)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._stack.aclose()

    async def finish(self) -> None:
        """Follow the job of the moment to its end, and leave. Raises `AssertionError`."""
        self._leaving = True
        await asyncio.gather(*self._tasks)

    async def _asking(self) -> None:
        while not self._leaving:
            began_s = time.monotonic()
            await self._ask("GET", f"/jobs/{self._job_id}")
            self.requests_s.append(time.monotonic() - began_s)
            await asyncio.sleep(PAUSE_S)

    async def _following(self) -> None:
        while not self._leaving:
            prompt = self._stage.prompt()
            self._job_id = await self._enqueue(prompt)
            self.tally.jobs += 1
            await self._follow(self._job_id, prompt)

    async def _follow(self, job_id: str, prompt: str) -> None:
        events: list[dict[str, Any]] = []
        try:
            async with self._api.stream(f"/jobs/{job_id}/events") as stream:
                seen_s = None
                async for event in stream:
                    if seen_s is not None:
                        self.gaps_s.append(time.monotonic() - seen_s)
                    seen_s = time.monotonic()
                    events.append(json.loads(event.data))
        except aiohttp.ClientError as error:
            self.tally.require(False, f"a healthy stream goes on: {type(error).__name__}")
        strange = [event["type"] for event in events if "id" not in event]
        self.tally.require(not strange, f"a healthy stream has nothing but events: {strange}")
        cursors = [Cursor.parse(event["id"]) for event in events if "id" in event]
        self.tally.duplicated += cursors != sorted(set(cursors))
        self.tally.lost += not events or events[-1]["type"] != "completed"
        text = "".join(event["text"] for event in events if event["type"] == "chunk")
        self.tally.wrong += not self._stage.model.is_whole(prompt, text)

    async def _enqueue(self, prompt: str) -> str:
        answer = await self._ask("POST", "/jobs", {"prompt": prompt})
        job_id: str = answer["job_id"]
        return job_id

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """Raises `AssertionError` where the answer is not what a healthy tenant gets."""
        try:
            answer = await self._api(method, path, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AssertionError(f"a healthy request: {type(error).__name__}") from None
        assert answer.status < 300, f"a healthy request gets {answer.status}"
        return answer.json
