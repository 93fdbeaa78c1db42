"""A worker's share of the batches over files: each is run by one worker at a time.

The list of open ones is looked at every few seconds. Whoever gets a batch's lease runs it; when
that worker dies, the lease runs out and another one goes on.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from darkq import Client, DarkqError, Files, LogLine, Settings
from darkq.errors import BatchNotFound, BatchTaken
from darkq_worker.file_batch import FileBatchRun

logger = logging.getLogger("darkq.worker.files")

LOOK_S = 2.0
AT_ONCE = 4
MAX_BACKOFF_S = 60.0


class FileBatchRunners:
    """Runs open batches over files. `run()` is its one task; it owns those of the batches."""

    def __init__(self, client: Client, files: Files, settings: Settings) -> None:
        self._client = client
        self._files = files
        self._settings = settings
        self._running: dict[str, asyncio.Task[None]] = {}
        self._backoffs: dict[str, tuple[float, float]] = {}
        """How long to leave a batch alone that could not be run, and until when."""

    async def run(self) -> None:
        """Look for batches and run them until cancelled; what was begun goes on elsewhere."""
        try:
            while True:
                try:
                    await self._look()
                except DarkqError as error:
                    kind = type(error).__name__
                    logger.warning(LogLine("no look at the open batches", error=kind))
                await asyncio.sleep(LOOK_S)
        finally:
            running = list(self._running.values())
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        opened = await self._client.file_batches.open()
        self._backoffs = {id_: each for id_, each in self._backoffs.items() if id_ in opened}
        for batch_id in opened:
            if len(self._running) >= AT_ONCE:
                return
            _, until = self._backoffs.get(batch_id, (0.0, 0.0))
            if batch_id not in self._running and now >= until:
                task = asyncio.create_task(self._run(batch_id), name="darkq-file-batch")
                self._running[batch_id] = task
                task.add_done_callback(partial(self._ended, batch_id))

    def _ended(self, batch_id: str, _: asyncio.Task[None]) -> None:
        del self._running[batch_id]

    async def _run(self, batch_id: str) -> None:
        try:
            async with self._client.batch(batch_id) as batch:
                record = await self._client.file_batches.get(batch_id)
                run = FileBatchRun(self._client, self._files, self._settings, batch, record)
                await run.run()
        except BatchTaken:  # another worker runs it
            self._back_off(batch_id)
        except BatchNotFound:
            await self._client.file_batches.close(batch_id)
        except Exception as error:
            kind = type(error).__name__
            logger.warning(LogLine("batch stopped, will try again", batch=batch_id, error=kind))
            self._back_off(batch_id)
        else:
            logger.info(LogLine("batch ended", batch=batch_id))

    def _back_off(self, batch_id: str) -> None:
        last_s, _ = self._backoffs.get(batch_id, (LOOK_S, 0.0))
        pause_s = min(2 * last_s, MAX_BACKOFF_S)
        self._backoffs[batch_id] = pause_s, asyncio.get_running_loop().time() + pause_s
