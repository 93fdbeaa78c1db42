"""Everything in Redis at one instant, read by one script and decoded for comparison."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from darkq import event as ev
from darkq.event import START, AnyEvent
from darkq.protocol.history import read_beginning, read_rest
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from darkq.protocol.record import ResultRecord, decode_job, decode_result
from integration.model.facts import Ending

_PHOTOGRAPH = b"""
local read = {
  string = function(key) return redis.call('GET', key) end,
  hash = function(key) return redis.call('HGETALL', key) end,
  stream = function(key) return redis.call('XRANGE', key, '-', '+') end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
}
local photo = {}
for n, key in ipairs(redis.call('KEYS', '*')) do
  photo[n] = { key, read[redis.call('TYPE', key).ok](key), redis.call('PTTL', key) }
end
return photo
"""

_QUEUES = PartitionKeys(0).queues
_IDLE = [PartitionKeys(0).idle(priority) for priority in PRIORITIES]

_DUMP = b"""
local dumps = {}
for n, key in ipairs(redis.call('KEYS', '*')) do
  dumps[n] = { key, redis.call('DUMP', key) }
end
return dumps
"""


class Photograph(NamedTuple):
    """What stands under each key, without its times; those apart; and what has no end."""

    values: dict[str, Any]
    scores: dict[str, float]
    enqueued_ms: dict[str, int]
    permanent: set[str]


async def photograph(redis: Redis) -> Photograph:
    """Read and decode all keys. An event log's entry must have its event's id.

    A log that is in a result is shown under the key of a log.
    """
    photo = Photograph({}, {}, {}, set())
    for name, value, ttl_ms in await redis.execute_command("EVAL", _PHOTOGRAPH, 0):
        key = name.decode()
        if key in _IDLE and ttl_ms > 0:
            continue  # who has room is no fact about a job
        if ttl_ms == -1:
            photo.permanent.add(key)
        photo.values[key] = _DECODE[re.sub(r"\{.*\}[0-9a-f]*", "", key)](value)
        if key in _QUEUES:
            photo.scores.update(photo.values[key])
        elif key.startswith("arq:job:"):
            photo.enqueued_ms[key] = decode_job(value).et
        elif key.startswith("arq:result:") and (log := _history(record := decode_result(value))):
            photo.values[JobKeys.from_arq_id(record.id).events] = log
    return photo


async def digest(redis: Redis) -> dict[bytes, bytes]:
    """Everything in Redis as it is stored, to compare before and after."""
    dumps = dict(await redis.execute_command("EVAL", _DUMP, 0))
    return {key: dump for key, dump in dumps.items() if key.decode() not in _IDLE}


def timeless(event: AnyEvent) -> AnyEvent:
    """The event without its time."""
    return msgspec.structs.replace(event, at_ms=0) if hasattr(event, "at_ms") else event


def _events(entries: Sequence[Any]) -> list[AnyEvent]:
    events = []
    for entry_id, (_, data) in entries:
        event = ev.decode(data)
        assert event.id == entry_id.decode()
        events.append(timeless(event))
    return events


def _history(record: ResultRecord) -> list[AnyEvent]:
    if not record.h:
        return []
    events = [*read_beginning(record.h), *read_rest(record, record.h, START)]
    return [timeless(event) for event in events]


def _ending(data: bytes) -> Ending:
    record = decode_result(data)
    return Ending(
        outcome=record.d.outcome,
        attempt=record.t,
        answer=record.r,
        queue=record.q,
        chunks=record.d.chunks,
        model=record.d.model,
        upstream=record.d.upstream,
        finish_reason=record.d.finish_reason,
        metadata=record.d.metadata,
    )


def _pairs(flat: Sequence[bytes]) -> list[tuple[str, str]]:
    texts = [item.decode() for item in flat]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _scores(flat: Sequence[bytes]) -> dict[str, float]:
    return {name: float(score) for name, score in _pairs(flat)}


_DECODE: dict[str, Callable[[Any], object]] = {
    "darkq::interactive": _scores,
    "darkq::bulk": _scores,
    "darkq::failed": lambda flat: set(_scores(flat)),
    "darkq::jobs": lambda flat: set(_scores(flat)),
    "darkq::control": lambda flat: set(dict(_pairs(flat))),
    "darkq:idempotency:": lambda data: data.decode().split(" ")[1],
    "darkq:state:": lambda flat: dict(_pairs(flat)),
    "darkq:events:": _events,
    "darkq:failed:": lambda data: decode_job(data).job,
    "arq:job:": lambda data: decode_job(data).job,
    "arq:retry:": int,
    "arq:in-progress:": bytes.decode,
    "arq:result:": _ending,
}
