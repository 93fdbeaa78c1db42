"""The options and help of `darkq batch`, and its short subcommands: list, show, cancel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.redis import with_client
from darkq_cli.terminal.short_ids import find_batch_id, shorten
from darkq_cli.terminal.units import format_time, format_time_briefly

if TYPE_CHECKING:
    from darkq import BatchStatus, Client

app = opt.build_group("batch", "Answer many prompts from a file.")

Kind: TypeAlias = Literal["jsonl", "csv", "tsv", "text"]
BatchArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The id that batch run has printed.")
]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The file for the answers.")
]
ErrorsOption = Annotated[
    Path | None,
    typer.Option(
        "--errors",
        metavar="FILE",
        help="The file for failures. Default: results.errors.jsonl beside results.jsonl.",
    ),
]


@app.command()
def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A file or a pipe, plain or compressed (gzip, zstd); - is standard input.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file for the answers."),
    ] = None,
    errors: ErrorsOption = None,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Write the answers in the order of the input.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the whole input; write nothing.")
    ] = False,
    input_format: Annotated[
        Kind | None, typer.Option("--input-format", help="Default: by the name of the input.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="The same as --input-format text.")] = False,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEXT", help="A prompt with {fields} of the input."),
    ] = None,
    prompt_field: Annotated[
        str | None,
        typer.Option("--prompt-field", metavar="NAME", help="The field that is the prompt."),
    ] = None,
    id_field: Annotated[
        str | None, typer.Option("--id-field", metavar="NAME", help="The field with the id.")
    ] = None,
    output_format: Annotated[
        Kind | None, typer.Option("--format", help="Default: by the name of the output.")
    ] = None,
    join: Annotated[
        bool | None,
        typer.Option("--join/--no-join", help="Write the fields of the input with each answer."),
    ] = None,
    answer_field: Annotated[
        str, typer.Option("--answer-field", metavar="NAME", help="The column of the answers.")
    ] = "answer",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Default: the name of the input.")
    ] = None,
    window: Annotated[
        int,
        typer.Option(
            "--window", metavar="N", min=1, max=100_000, help="Maximum number of lines in Redis."
        ),
    ] = 2000,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="For lines without a model.")
    ] = None,
    upstream: opt.UpstreamOption = None,
    system: opt.SystemOption = None,
    temperature: opt.TemperatureOption = None,
    max_tokens: opt.MaxTokensOption = None,
    options: opt.OtherOption = None,
    ignore_unsupported: opt.IgnoreUnsupportedOption = False,
    priority: opt.PriorityOption = "bulk",
    tries: opt.TriesOption = None,
    timeout_s: opt.TimeoutOption = None,
    _: opt.JsonOption = False,
) -> None:
    """Answer each line of a file exactly once, even if processes are killed.

    The input is CSV, TSV, text, or lines of JSON: {"prompt": "..."}, or OpenAI's batch format. The
    whole input is checked before the first line is sent. Ctrl-C leaves the jobs running, and prints
    how to resume and how to cancel; the same command resumes too.

    \b
    darkq batch run reviews.csv --prompt 'Good or bad? {text}' -o answers.csv
    darkq batch run prompts.jsonl.gz -o results.jsonl --ordered --model gpt-4o
    sort -u prompts.txt | darkq batch run - --text -o results.jsonl
    """
    if output is None and not dry_run:
        raise typer.BadParameter("required without --dry-run", param_hint="-o")
    if text and input_format not in (None, "text"):
        raise typer.BadParameter("contradicts --input-format", param_hint="--text")
    from darkq_cli.batch import start
    from darkq_cli.batch.formats.rows import InputFormat, find_kind
    from darkq_cli.batch.plan import Plan

    output = output or Path(os.devnull)
    given = start.Source(source)
    input_ = InputFormat(
        kind="text" if text else input_format or find_kind(source),
        prompt=prompt,
        prompt_field=prompt_field,
        id_field=id_field,
        system=system,
    )
    draft = Plan(
        name=given.default_name if name is None else name,
        files=given.build_files(output, errors),
        input=input_,
        output=start.build_output_format(
            output, input_, kind=output_format, join=join, answer_field=answer_field
        ),
        common=start.build_common(
            model=model,
            upstream=upstream,
            priority=priority,
            tries=tries,
            timeout_s=timeout_s,
            options=opt.parse_options(temperature, max_tokens, options),
            ignore_unsupported=ignore_unsupported,
        ),
        ordered=ordered,
        window=window,
    )
    start.run(given, draft, dry_run=dry_run)


@app.command()
def retry(
    batch: Annotated[
        str, typer.Argument(metavar="ID", help="The id of the batch, or its output file.")
    ],
    ignore_unsupported: opt.IgnoreUnsupportedOption = False,
    _: opt.JsonOption = False,
) -> None:
    """Run the lines of a batch again that failed or were cancelled, as a new batch.

    Their answers are appended to the output. Lines that fail again replace the errors file.

    \b
    darkq batch retry $id
    darkq batch retry results.jsonl
    """
    from darkq_cli.batch import start

    is_id = batch.startswith("batch-") and not Path(batch).exists()
    start.retry(find_batch_id(batch) if is_id else batch, ignore_unsupported=ignore_unsupported)


@app.command()
def resume(batch_id: BatchArgument, _: opt.JsonOption = False) -> None:
    """Resume an unfinished batch on the machine where it was started.

    \b
    darkq batch resume $id
    """
    from darkq_cli.batch import start

    start.resume(find_batch_id(batch_id))


@app.command(name="list")
def list_(limit: opt.LimitOption = 50, _: opt.JsonOption = False) -> None:
    """List the batches in Redis, the latest first.

    \b
    darkq batch list
    darkq batch list --json | jq -r .batch_id
    """

    async def fetch(client: Client) -> list[BatchStatus]:
        found: list[BatchStatus] = []
        async with aclosing(client.batches()) as batches:
            async for batch in batches:
                found.append(batch)
                if len(found) > limit:  # one more than the limit shows whether there are more
                    break
        return found

    found = with_client(fetch)
    headings = ("batch", "begun", "state", "lines", "completed", "failed", "name")
    short = shorten([batch.batch_id for batch in found], [])
    output.write_list(found[:limit], headings, lambda batch: _build_row(batch, short))
    if not found:
        messages.say("there are no batches in Redis")
    elif len(found) > limit:
        messages.say(f"To list more: {program.command()} batch list --limit {limit * 10}")


def _build_row(batch: BatchStatus, short: Mapping[str, str]) -> Sequence[str]:
    id_ = output.fit(short[batch.batch_id], batch.batch_id)
    begun = output.fit(format_time_briefly(batch.created_ms), format_time(batch.created_ms))
    completed, failures = f"{batch.completed:,}", batch.failed + batch.cancelled
    failed = output.Cell(f"{failures:,}", "red" if failures else "")
    return id_, begun, batch.state, _format_lines(batch), completed, failed, batch.name or ""


@app.command()
def show(batch_id: BatchArgument, _: opt.JsonOption = False) -> None:
    """Print the state of a batch.

    \b
    darkq batch show $id
    darkq batch show $id --json
    """
    whole_id = find_batch_id(batch_id)
    _print(with_client(lambda client: client.batch(whole_id).status()))


@app.command()
def tail(
    batch_id: BatchArgument,
    chunks: Annotated[
        bool, typer.Option("--chunks", help="Print also the text of each line, as it arrives.")
    ] = False,
    after: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Start after this cursor, which --json prints."),
    ] = None,
    _: opt.JsonOption = False,
) -> None:
    """Print the outcome of each line of a batch when it ends.

    Ctrl-C prints the command that reads on.

    \b
    darkq batch tail $id
    darkq batch tail $id --after 120
    darkq batch tail $id --chunks --json
    """
    from darkq_cli.batch import results

    results.tail(find_batch_id(batch_id), chunks=chunks, after=after)


@app.command()
def cancel(batch_id: BatchArgument, _: opt.JsonOption = False) -> None:
    """Cancel the unfinished jobs of a batch, and print its state.

    \b
    darkq batch cancel $id
    """
    whole_id = find_batch_id(batch_id)
    _print(with_client(lambda client: client.batch(whole_id).cancel()))


@app.command("results")
def copy_results(
    batch_id: BatchArgument,
    output: OutputOption,
    errors: ErrorsOption = None,
    _: opt.JsonOption = False,
) -> None:
    """Copy the answers that are in Redis and that batch run has not written yet.

    They stay in Redis, so batch resume writes them too.

    \b
    darkq batch results $id -o so-far.jsonl
    """
    from darkq_cli.batch import results

    results.copy(find_batch_id(batch_id), answers=output, errors=errors)


def _print(status: BatchStatus) -> None:
    facts: output.Facts = {
        "batch": status.batch_id,
        "state": status.state,
        **({"name": status.name} if status.name else {}),
        "begun": format_time(status.created_ms),
        "lines": _format_lines(status),
        "running": status.outstanding,
        "completed": status.completed,
        "failed": status.failed,
        "cancelled": status.cancelled,
        "not written yet": status.ended - status.acknowledged,
        "runner": status.runner or "none",
    }
    output.write_one(status, facts)


def _format_lines(status: BatchStatus) -> str:
    if status.total is not None:
        return f"{status.total:,}"
    if status.expected is None:
        return f"{status.added:,} so far"
    done = status.ended / status.expected if status.expected else 1
    return f"{status.expected:,} ({done:.0%})"
