"""`darkq keys`: the API keys of the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.redis import with_client
from darkq_cli.terminal.units import format_time, parse_duration, parse_rate

if TYPE_CHECKING:
    from darkq import ApiKey, Client

app = opt.build_group("keys", "Create, list and revoke API keys of the gateway.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name in lists.")],
    tenant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The tenant whose jobs it may read.", show_default="the key's name"
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/s",
            help="Rate limit: 5/s, 100/min, 1000/h. A request with many jobs counts once.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Maximum concurrent requests, streams included."),
    ] = None,
    max_prompt_bytes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Largest prompt.")
    ] = None,
    max_body_bytes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Largest request body, and file.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(metavar="A,B", help="The only models that it may request.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Expires after: 12h, 30d.")
    ] = None,
    _: opt.JsonOption = False,
) -> None:
    """Create a key and print it. It is printed only once; Redis stores its hash.

    A key can read the jobs of its tenant, and no others. As soon as one key exists, the gateway
    refuses every request without a key.

    \b
    darkq keys create alice
    darkq keys create web --tenant shop --rate 10/s --concurrency 50 --expires 90d
    """
    rate_per_s = parse_rate(rate, "--rate") if rate is not None else None
    ttl_s = parse_duration(expires, "--expires") if expires is not None else None
    key, secret = with_client(
        lambda client: client.api_keys.create(
            name,
            tenant=tenant,
            rate_per_s=rate_per_s,
            concurrency=concurrency,
            max_prompt_bytes=max_prompt_bytes,
            max_body_bytes=max_body_bytes,
            models=[model.strip() for model in models.split(",")] if models else (),
            ttl_s=ttl_s,
        )
    )
    if not messages.as_json:
        messages.say(f"key {key.id} of tenant {key.tenant}; it is printed only once:", style="dim")
    output.write_one({"key": secret, "id": key.id, "tenant": key.tenant}, secret)


@app.command("list")
def list_(_: opt.JsonOption = False) -> None:
    """List the valid keys, without their secrets.

    \b
    darkq keys list
    """
    found = with_client(lambda client: client.api_keys.listed())
    headings = ("key", "name", "tenant", "created", "expires")
    output.write_list(found, headings, _build_row, _describe_limits)
    if not found and not messages.as_json:
        messages.say(f"no keys exist; to create one: {program.command()} keys create NAME")


@app.command()
def revoke(
    key_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="From darkq keys list.")],
) -> None:
    """Revoke keys. The gateway refuses their next request.

    \b
    darkq keys revoke 4f1c90a2b35d6e78
    """

    async def revoke_keys(client: Client) -> None:
        for key_id in key_ids:
            await client.api_keys.revoke(key_id)
            output.write_line(key_id)

    with_client(revoke_keys)


def _build_row(key: ApiKey) -> Sequence[str]:
    created = format_time(key.created_ms)
    expires = format_time(key.expires_ms) if key.expires_ms else "never"
    return key.id, key.name, key.tenant, created, expires


def _describe_limits(key: ApiKey) -> str:
    limits = {
        "{:g} requests/s": key.rate_per_s,
        "{:,} concurrent calls": key.concurrency,
        "prompt {:,} bytes": key.max_prompt_bytes,
        "body {:,} bytes": key.max_body_bytes,
        "models {}": " ".join(key.models) or None,
    }
    return ", ".join(text.format(limit) for text, limit in limits.items() if limit is not None)
