"""The commands about workers that run: their options and help. `workers` does it."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli.terminal import options as opt

app = typer.Typer(
    name="workers",
    invoke_without_command=True,
    rich_markup_mode=None,
    help="Show the workers that are alive; drain them.",
)

WorkersArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="As darkq workers shows them.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All that are alive now.")]


@app.callback()
def workers(context: typer.Context, as_json: opt.JsonOption = False) -> None:
    """Show the workers that are alive, how much each runs, and what it was told; drain them.

    \b
    darkq workers
    darkq workers drain --all --wait
    """
    from darkq_cli.commands import workers as room

    if context.invoked_subcommand is None:
        room.list_(as_json=as_json)


@app.command()
def drain(
    worker_ids: WorkersArgument = None,
    every: AllOption = False,
    patient: Annotated[
        bool,
        typer.Option(
            "--patient", help="Let what runs take its time, not DARKQ_WORKER_SHUTDOWN_GRACE_S."
        ),
    ] = False,
    stay: Annotated[
        bool, typer.Option("--stay", help="Stay idle in the end, and do not exit.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until they are gone, or idle.")
    ] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout-s", metavar="S", min=0, help="Wait no longer; exit code 1."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="NAME", help="Who says so.", show_default="user@host"),
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Let workers take no more jobs, finish what they run, and exit. Prints their ids.

    As SIGTERM does, from anywhere. A supervisor that starts them again starts new workers.

    \b
    darkq workers drain web-1:4711:0f3a2b1c --patient --wait
    """
    from darkq_cli.commands import workers as room

    room.drain(
        worker_ids or [],
        every=every,
        patient=patient,
        stay=stay,
        wait=wait,
        timeout_s=timeout_s,
        by=by,
        as_json=as_json,
    )


@app.command()
def undrain(
    worker_ids: WorkersArgument = None, every: AllOption = False, as_json: opt.JsonOption = False
) -> None:
    """Let workers claim again that were told to stay.

    \b
    darkq workers undrain --all
    """
    from darkq_cli.commands import workers as room

    room.undrain(worker_ids or [], every=every, as_json=as_json)
