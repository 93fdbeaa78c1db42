"""Short ids: tables print the shortest beginning that is unique, and commands accept it.

A whole id is used as it is. A beginning is looked up among the jobs and batches that Redis lists;
see `darkq.jobs.job_lists`. So a job that has neither failed nor is one of the latest needs its
whole id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING

from darkq_cli.terminal.problems import wrong_usage
from darkq_cli.terminal.redis import with_client

if TYPE_CHECKING:
    from darkq import Client, JobHandle

LEAST_DIGITS = 8
"""Tables print at least so many hexadecimal digits, so that a short id stays unique for long."""

_SHOWN = 3


def shorten(ids: Sequence[str], among: Iterable[str]) -> Mapping[str, str]:
    """Return a unique beginning of each id, among all known ones."""
    ordered = sorted({*ids, *among})
    short = {}
    for number, id_ in enumerate(ordered):
        near = [*ordered[max(0, number - 1) : number], *ordered[number + 1 : number + 2]]
        shared = max((len(commonprefix((id_, other))) for other in near), default=0)  # noqa: RUF071
        least = id_.rfind("-") + 1 + LEAST_DIGITS
        short[id_] = id_[: max(least, shared + 1)]
    return {id_: short[id_] for id_ in ids}


async def find_job(client: Client, text: str) -> JobHandle:
    """Return the job of an id, or of the beginning of one. Raises `Problem`, `JobNotFound`."""
    from darkq import JobNotFound

    try:
        return client.job(text)
    except JobNotFound:
        found = pick(text, await client.job_ids(), "job")
        if found is None:
            raise
        return client.job(found)


def find_batch_id(text: str) -> str:
    """Return the id of a batch from its beginning; anything else as it is. Raises `Problem`."""
    from darkq import BatchNotFound
    from darkq.protocol.keys import BatchKeys

    try:
        return BatchKeys.parse(text).public_id
    except BatchNotFound:
        return pick(text, with_client(lambda client: client.batch_ids()), "batch") or text


def pick(text: str, known: Iterable[str], what: str) -> str | None:
    """Return the only id that begins with the text; None if there is none. Raises `Problem`."""
    found = sorted(id_ for id_ in known if id_.startswith(text)) if text else []
    if len(found) > 1:
        more = f", and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
        raise wrong_usage(
            f"{text} is the beginning of {len(found):,} {what} ids",
            f"Type more of it: {', '.join(found[:_SHOWN])}{more}",
        )
    return found[0] if found else None
