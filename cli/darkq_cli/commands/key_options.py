"""The commands about API keys: their options and help. What they do is in `keys`."""

from __future__ import annotations

from typing import Annotated

import typer

from darkq_cli.terminal import options as opt

app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make, list and revoke the API keys of the gateway.",
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it in lists.")],
    tenant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose jobs it may see.", show_default="the key's name"),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/s", help="Most calls: 5/s, 100/min, 1000/h; one with many jobs is one."
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Most calls at once, streams included.")
    ] = None,
    max_prompt_bytes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Largest prompt.")
    ] = None,
    max_body_bytes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Largest body of a call, and file.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(metavar="A,B", help="The only models it may ask for.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends, from now: 12h, 30d.")
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Make a key and print it. It is shown this once, and kept as a hash.

    Keys of one tenant see each other's jobs, and no others. Once a key exists, the gateway
    answers to nobody without one.

    \b
    darkq keys create alice
    darkq keys create web --tenant shop --rate 10/s --concurrency 50 --expires 90d
    """
    from darkq_cli.commands import keys

    keys.create(
        name,
        tenant=tenant,
        rate=rate,
        concurrency=concurrency,
        max_prompt_bytes=max_prompt_bytes,
        max_body_bytes=max_body_bytes,
        models=models,
        expires=expires,
        as_json=as_json,
    )


@app.command("list")
def list_(as_json: opt.JsonOption = False) -> None:
    """List the keys that are good now, without the keys themselves.

    \b
    darkq keys list
    """
    from darkq_cli.commands import keys

    keys.list_(as_json=as_json)


@app.command()
def revoke(
    key_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As list shows them.")],
) -> None:
    """Make keys useless, from their next call on.

    \b
    darkq keys revoke 4f1c90a2b35d6e78
    """
    from darkq_cli.commands import keys

    keys.revoke(key_ids)
