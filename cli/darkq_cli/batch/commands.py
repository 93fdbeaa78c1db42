"""The commands about batches: their options and help. What they do is in other rooms."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from darkq_cli.terminal import options as opt

app = typer.Typer(
    name="batch",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Many prompts from a file, their answers into another.",
)

BatchArgument = Annotated[str, typer.Argument(metavar="ID", help="The id that batch run printed.")]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="Where the answers go.")
]
ErrorsOption = Annotated[
    Path | None,
    typer.Option(
        "--errors",
        metavar="FILE",
        help="Where failures go. Default: results.errors.jsonl beside results.jsonl.",
    ),
]


@app.command()
def run(
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="A file or pipe, also packed; - is standard input."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the answers go."),
    ] = None,
    errors: ErrorsOption = None,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Write the answers in the order of the input.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the whole input; write nothing.")
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Each line is a prompt. So it is in a .txt file.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What batch list shows.")
    ] = None,
    window: Annotated[
        int,
        typer.Option(
            "--window", metavar="N", min=1, max=100_000, help="Most lines in Redis at once."
        ),
    ] = 2000,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="For lines that name none.")
    ] = None,
    upstream: opt.UpstreamOption = None,
    priority: opt.PriorityOption = "bulk",
    tries: opt.TriesOption = None,
    timeout_s: opt.TimeoutOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Answer every line of a file, each once, whatever is killed in between.

    A line is a request of OpenAI's batch format, {"prompt": "..."}, or with --text a prompt. The
    whole input is checked before the first line is sent. Ctrl-C leaves what was sent running, and
    prints how to go on; the same command goes on, too. A second Ctrl-C cancels the batch.

    \b
    darkq batch run prompts.jsonl -o results.jsonl
    darkq batch run prompts.jsonl.gz -o results.jsonl --ordered --model gpt-4o
    sort -u prompts.txt | darkq batch run - --text -o results.jsonl
    """
    if output is None and not dry_run:
        raise typer.BadParameter("missing, as there is no --dry-run", param_hint="-o")
    from darkq_cli.batch import start

    start.run(
        start.Wish(
            source=source,
            output=output or Path(os.devnull),
            errors=errors,
            ordered=ordered,
            is_text=text,
            name=name,
            window=window,
            common=start.for_all_lines(
                model=model, upstream=upstream, priority=priority, tries=tries, timeout_s=timeout_s
            ),
        ),
        dry_run=dry_run,
        as_json=as_json,
    )


@app.command()
def resume(batch_id: BatchArgument, as_json: opt.JsonOption = False) -> None:
    """Go on with a batch that was left, where it was begun.

    \b
    darkq batch resume $id
    """
    from darkq_cli.batch import start

    start.resume(batch_id, as_json=as_json)


@app.command(name="list")
def list_(
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="How many at most.")
    ] = 50,
    as_json: opt.JsonOption = False,
) -> None:
    """List the batches that Redis knows, the latest first.

    \b
    darkq batch list
    darkq batch list --json | jq -r .batch_id
    """
    from darkq_cli.batch import looking

    looking.list_(limit=limit, as_json=as_json)


@app.command()
def show(batch_id: BatchArgument, as_json: opt.JsonOption = False) -> None:
    """Print where a batch stands.

    \b
    darkq batch show $id
    darkq batch show $id --json
    """
    from darkq_cli.batch import looking

    looking.show(batch_id, as_json=as_json)


@app.command()
def tail(
    batch_id: BatchArgument,
    chunks: Annotated[
        bool, typer.Option("--chunks", help="Also the words of every line, as they come.")
    ] = False,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on after what --json calls so.")
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Print which lines of a batch end, and how, as it happens.

    Ctrl-C prints the command that reads on.

    \b
    darkq batch tail $id
    darkq batch tail $id --after 120
    darkq batch tail $id --chunks --json
    """
    from darkq_cli.batch import looking as tailing

    tailing.tail(batch_id, chunks=chunks, after=after, as_json=as_json)


@app.command()
def cancel(batch_id: BatchArgument, as_json: opt.JsonOption = False) -> None:
    """Cancel the jobs of a batch that are not over, and print where it stands then.

    \b
    darkq batch cancel $id
    """
    from darkq_cli.batch import looking

    looking.cancel(batch_id, as_json=as_json)


@app.command()
def results(
    batch_id: BatchArgument,
    output: OutputOption,
    errors: ErrorsOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Copy the answers that are there and that batch run has not written yet.

    They stay where they are, so batch resume writes them, too.

    \b
    darkq batch results $id -o so-far.jsonl
    """
    from darkq_cli.batch import looking

    looking.results(batch_id, output=output, errors=errors, as_json=as_json)
