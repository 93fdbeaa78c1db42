"""The commands about API keys: make them, list them, revoke them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from darkq import ApiKey, Client
from darkq_cli.terminal import messages, output, program
from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem
from darkq_cli.terminal.redis import with_client

_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)/(s|min|h|d)")
_TIME = re.compile(r"([0-9]{1,7})(s|min|h|d)")


def create(
    name: str,
    *,
    tenant: str | None,
    rate: str | None,
    concurrency: int | None,
    max_prompt_bytes: int | None,
    max_body_bytes: int | None,
    models: str | None,
    expires: str | None,
    as_json: bool,
) -> None:
    """Make a key and print it."""
    per_s = _rate_per_s(rate) if rate is not None else None
    ttl_s = _seconds(expires) if expires is not None else None

    async def make(client: Client) -> tuple[ApiKey, str]:
        return await client.api_keys.create(
            name,
            tenant=tenant,
            rate_per_s=per_s,
            concurrency=concurrency,
            max_prompt_bytes=max_prompt_bytes,
            max_body_bytes=max_body_bytes,
            models=[model.strip() for model in models.split(",")] if models else (),
            ttl_s=ttl_s,
        )

    key, secret = with_client(make)
    if as_json:
        output.write_json({"key": secret, "id": key.id, "tenant": key.tenant})
        return
    messages.say(f"key {key.id} of tenant {key.tenant}; it is shown this once:", style="dim")
    output.write_line(secret)


def list_(*, as_json: bool) -> None:
    """Print what is kept of the keys."""

    async def ask(client: Client) -> list[ApiKey]:
        return await client.api_keys.listed()

    found = with_client(ask)
    if as_json:
        for key in found:
            output.write_json(key)
    elif found:
        _print_table(found)
    else:
        messages.say(f"There is no key. To make one: {program.command()} keys create NAME")


def revoke(key_ids: Sequence[str]) -> None:
    """Make keys useless. Raises `ApiKeyNotFound`."""

    async def end(client: Client) -> None:
        for key_id in key_ids:
            await client.api_keys.revoke(key_id)
            output.write_line(key_id)

    with_client(end)


def _print_table(keys: Sequence[ApiKey]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("key", no_wrap=True)
    for heading in ("name", "tenant", "made", "expires", "limits"):
        table.add_column(heading, overflow="fold")
    for key in keys:
        table.add_row(
            key.id,
            messages.harmless(key.name),
            messages.harmless(key.tenant),
            _time(key.created_ms),
            _time(key.expires_ms) if key.expires_ms else "never",
            messages.harmless(", ".join(_limits(key))),
        )
    messages.stdout_console().print(table)


def _limits(key: ApiKey) -> list[str]:
    limits = []
    if key.rate_per_s is not None:
        limits.append(f"{key.rate_per_s:g} calls/s")
    if key.concurrency is not None:
        limits.append(f"{key.concurrency:,} at once")
    if key.max_prompt_bytes is not None:
        limits.append(f"prompt {key.max_prompt_bytes:,} bytes")
    if key.max_body_bytes is not None:
        limits.append(f"body {key.max_body_bytes:,} bytes")
    if key.models:
        limits.append("models " + " ".join(key.models))
    return limits


def _time(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1000).astimezone():%Y-%m-%d %H:%M}"


def _rate_per_s(text: str) -> float:
    match = _RATE.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise Problem(
            f"--rate: {text!r} is no rate, like 5/s, 100/min, 1000/h", exit_code=USAGE_EXIT_CODE
        )
    return float(match[1]) / _UNITS_S[match[2]]


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise Problem(
            f"--expires: {text!r} is no length of time, like 12h, 30d", exit_code=USAGE_EXIT_CODE
        )
    return float(int(match[1]) * _UNITS_S[match[2]])
