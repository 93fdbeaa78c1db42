"""`darkq.sync`: a batch without `await`."""

from __future__ import annotations

import asyncio

import pytest

from darkq import InvalidLine, Settings
from darkq.sync import Client


@pytest.mark.usefixtures("worker")
async def test_a_script_runs_a_batch_and_looks_at_it(settings: Settings) -> None:
    def script() -> None:
        with Client(settings=settings) as client:
            batch = client.batch(name="n", window=5)
            ends = {end.number: end for end in batch.run({"prompt": f"{n}"} for n in range(12))}
            assert sorted(ends) == list(range(1, 13))
            assert batch.status().state == "completed"
            cursors = [end.cursor.partition("@")[0] for end in batch.events("10")]
            assert cursors == ["11", "12"]
            assert len(list(batch.tail("10"))) == 2
            assert [known.batch_id for known in client.batches()] == [batch.id]
            assert client.batch(batch.id).cancel().state == "completed"
            assert batch.status().runner is None
            with pytest.raises(InvalidLine):
                list(client.batch().run([7]))  # type: ignore[list-item]

    await asyncio.to_thread(script)


@pytest.mark.usefixtures("worker")
async def test_a_script_that_breaks_out_gives_the_lease_up(settings: Settings) -> None:
    def script() -> None:
        with Client(settings=settings) as client:
            batch = client.batch()
            ends = batch.run(["a", "b", "c"])
            next(ends)
            ends.close()  # type: ignore[attr-defined]
            assert batch.status().runner is None
            assert len(list(client.batch(batch.id).run(["a", "b", "c"]))) == 3

    await asyncio.to_thread(script)
