"""`darkq workers`: the live workers, and requests to drain them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.problems import Problem, wrong_usage
from darkq_cli.terminal.progress import CountProgress
from darkq_cli.terminal.redis import with_client
from darkq_cli.terminal.short_ids import pick
from darkq_cli.terminal.units import format_time

if TYPE_CHECKING:
    from darkq import Client, WorkerLeases

POLL_INTERVAL_S = 0.5

app = opt.build_group("workers", "List and drain live workers.", has_default=True)

WorkersArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="From darkq workers.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All live workers.")]


@app.callback()
def workers(context: typer.Context, _: opt.JsonOption = False) -> None:
    """List the live workers with their running jobs and drain requests; drain workers.

    \b
    darkq workers
    darkq workers drain --all --wait
    """
    if context.invoked_subcommand is not None:
        return
    found = with_client(lambda client: client.leases())
    output.write_list(found, ("worker", "running", "state"), _build_row, _describe_drain)
    if not found and not messages.as_json:
        messages.say(f"no live workers; to start one: {program.command()} worker")


def _build_row(worker: WorkerLeases) -> Sequence[str]:
    state = "active"
    if (drained := worker.drained) is not None:
        then = "idle" if drained.stay else "exits"
        state = output.Cell(f"draining, then {then}", "yellow")
    return worker.worker, f"{worker.running:,}", state


def _describe_drain(worker: WorkerLeases) -> str:
    if (drained := worker.drained) is None:
        return ""
    return f"drained by {drained.by or '?'} at {format_time(drained.since_ms)}"


@app.command()
def drain(
    worker_ids: WorkersArgument = None,
    every: AllOption = False,
    patient: Annotated[
        bool,
        typer.Option(
            "--patient", help="Wait for running jobs without DARKQ_WORKER_SHUTDOWN_GRACE_S."
        ),
    ] = False,
    stay: Annotated[
        bool, typer.Option("--stay", help="Stay idle in the end instead of exiting.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until they have exited, or are idle.")
    ] = False,
    timeout_s: opt.DrainTimeoutOption = None,
    by: opt.ByOption = None,
    _: opt.JsonOption = False,
) -> None:
    """Make workers stop claiming, finish their running jobs, and exit. Prints their ids.

    It has the effect of SIGTERM, from any machine. A supervisor that restarts the processes starts
    new workers.

    \b
    darkq workers drain web-1:4711:0f3a2b1c --patient --wait
    """
    from darkq import WorkerNotFound

    async def drain_workers(client: Client) -> int:
        draining = []
        for worker_id in await _select_workers(client, worker_ids, every=every):
            try:
                await client.worker(worker_id).drain(patient=patient, stay=stay, by=by)
            except WorkerNotFound:
                if not every:  # with --all, one may have exited after it was listed
                    raise
                continue
            draining.append(worker_id)
            output.write_one({"worker": worker_id}, worker_id)
        return await _wait_until_drained(client, draining, timeout_s) if wait else 0

    busy = with_client(drain_workers)
    if busy:
        raise Problem(f"{busy:,} workers are still draining after {timeout_s:g} s")


@app.command()
def undrain(
    worker_ids: WorkersArgument = None, every: AllOption = False, _: opt.JsonOption = False
) -> None:
    """Make workers that were drained with --stay claim jobs again.

    \b
    darkq workers undrain --all
    """

    async def undrain_workers(client: Client) -> None:
        for worker_id in await _select_workers(client, worker_ids, every=every):
            await client.worker(worker_id).undrain()
            output.write_one({"worker": worker_id}, worker_id)

    with_client(undrain_workers)


async def _select_workers(
    client: Client, worker_ids: Sequence[str] | None, *, every: bool
) -> Sequence[str]:
    if bool(worker_ids) == every:
        raise wrong_usage(
            "this needs ids of workers, or --all",
            f"To list live workers: {program.command()} workers",
        )
    alive = await client.workers()
    if not worker_ids:
        return alive
    # An exact id may begin another one; an unknown id is reported by the next call.
    return [id_ if id_ in alive else pick(id_, alive, "worker") or id_ for id_ in worker_ids]


async def _wait_until_drained(
    client: Client, worker_ids: Sequence[str], timeout_s: float | None
) -> int:
    """Wait until all have exited or are idle. Return how many have not when the time is over."""
    import asyncio

    busy = len(worker_ids)
    try:
        async with asyncio.timeout(timeout_s):
            with CountProgress("workers have drained", total=len(worker_ids)) as progress:
                while True:
                    alive = {worker.worker: worker for worker in await client.leases()}
                    left = [alive[id_] for id_ in worker_ids if id_ in alive]
                    running = sum(worker.running for worker in left)
                    idle = [w for w in left if w.drained and w.drained.stay and not w.running]
                    busy = len(left) - len(idle)
                    progress.show_count(len(worker_ids) - busy, running=running)
                    if not busy:
                        return 0
                    await asyncio.sleep(POLL_INTERVAL_S)
    except TimeoutError:
        return busy
