"""The workers that are alive: listed, and told to take no more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from darkq import Client, WorkerLeases, WorkerNotFound
from darkq_cli.queues.progress import Progress
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem
from darkq_cli.terminal.redis import with_client

LOOK_EVERY_S = 0.5


def list_(*, as_json: bool) -> None:
    """Print the workers."""

    async def ask(client: Client) -> list[WorkerLeases]:
        return await client.leases()

    found = with_client(ask)
    if as_json:
        for worker in found:
            output.write_json(worker)
    elif found:
        _print_table(found)
    else:
        messages.say(f"no worker is alive; to start one: {program.command()} worker")


def drain(
    worker_ids: Sequence[str],
    *,
    every: bool,
    patient: bool,
    stay: bool,
    wait: bool,
    timeout_s: float | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Tell workers to take no more, and wait for that if it is wanted.

    Raises `Problem` when they are not gone or idle after `timeout_s`, `WorkerNotFound`.
    """

    async def tell(client: Client) -> int:
        chosen = await _chosen(client, worker_ids, every=every)
        told = []
        for worker_id in chosen:
            try:
                await client.worker(worker_id).drain(patient=patient, stay=stay, by=by)
            except WorkerNotFound:
                if not every:  # of all, one may have gone meanwhile
                    raise
                continue
            told.append(worker_id)
            _write(worker_id, as_json=as_json)
        return await _until_done(client, told, timeout_s) if wait else 0

    left = with_client(tell)
    if left:
        raise Problem(f"{left:,} workers are not done after {timeout_s:g} s; they go on")


def undrain(worker_ids: Sequence[str], *, every: bool, as_json: bool) -> None:
    """Let workers claim again."""

    async def tell(client: Client) -> None:
        for worker_id in await _chosen(client, worker_ids, every=every):
            await client.worker(worker_id).undrain()
            _write(worker_id, as_json=as_json)

    with_client(tell)


async def _chosen(client: Client, worker_ids: Sequence[str], *, every: bool) -> Sequence[str]:
    if bool(worker_ids) == every:
        raise Problem(
            "name workers, or say --all",
            f"Which are alive: {program.command()} workers",
            exit_code=USAGE_EXIT_CODE,
        )
    return await client.workers() if every else worker_ids


async def _until_done(client: Client, worker_ids: Sequence[str], timeout_s: float | None) -> int:
    """Wait until all are gone or idle; return how many are not when the time is over."""
    busy = len(worker_ids)
    try:
        async with asyncio.timeout(timeout_s):
            with Progress("workers are done", total=len(worker_ids)) as progress:
                while True:
                    alive = {worker.worker: worker for worker in await client.leases()}
                    left = [alive[id_] for id_ in worker_ids if id_ in alive]
                    busy = sum(not _is_done(worker) for worker in left)
                    running = sum(worker.running for worker in left)
                    progress.show(len(worker_ids) - busy, running=running)
                    if not busy:
                        return 0
                    await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        return busy


def _is_done(worker: WorkerLeases) -> bool:
    return worker.drained is not None and worker.drained.stay and not worker.running


def _write(worker_id: str, *, as_json: bool) -> None:
    if as_json:
        output.write_json({"worker": worker_id})
    else:
        output.write_line(worker_id)


def _print_table(workers: Sequence[WorkerLeases]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("worker", no_wrap=True)
    for heading in ("running", "stands"):
        table.add_column(heading, overflow="fold")
    for worker in workers:
        drained = worker.drained
        words = "claims"
        if drained is not None:
            ends = "stays" if drained.stay else "exits"
            words = f"takes no more, and {ends}; says {drained.by or '?'}"
        table.add_row(
            messages.harmless(worker.worker), f"{worker.running:,}", messages.harmless(words)
        )
    messages.stdout_console().print(table)
