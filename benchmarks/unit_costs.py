"""What each thing costs each part, measured: the one table that `capacity` calculates with.

Processor time is in µs of one core of the machine named below. A chunk has 16 characters, and is
an event of its own unless it waited. A call is a script that writes events of one partition; a
flush is what a worker sends to a server at once.
"""

from __future__ import annotations

from typing import NamedTuple


class UnitCosts(NamedTuple):
    """The units stand at the ends of the names."""

    # A worker process
    worker_event_us: float
    worker_call_us: float
    worker_flush_us: float
    worker_job_us: float
    worker_stream_us_per_s: float
    worker_claim_us: float
    worker_wake_us: float
    """A job that another worker takes: its wake-up, and the claim that comes to nothing."""
    worker_base_mb: float
    worker_stream_kb: float
    flush_us: float
    """From when a flush is sent until the next one can be, all logs being on one server."""

    # Redis
    redis_event_us: float
    redis_call_us: float
    redis_flush_us: float
    redis_delivery_us: float
    redis_job_us: float
    redis_stream_us_per_s: float
    redis_claim_us: float
    redis_wake_us: float
    redis_waiting_job_bytes: float
    redis_finished_job_bytes: float
    redis_event_bytes: float
    redis_text_bytes: float
    """A chunk's characters, in the log and in the result."""

    # A gateway process
    gateway_delivery_us: float
    gateway_opening_us: float
    gateway_base_mb: float
    gateway_reader_kb: float

    # The wire
    event_in_bytes: float
    call_in_bytes: float
    job_in_bytes: float
    delivery_out_bytes: float
    sse_bytes: float


MACHINE = (
    "AMD EPYC, 2 cores, Linux 6.18; Python 3.11, uvloop, valkey-server 9.1, loopback; "
    "busy with other work"
)

MEASURED = UnitCosts(
    worker_event_us=54.6,
    worker_call_us=30.4,
    worker_flush_us=164.0,
    worker_job_us=540.0,
    worker_stream_us_per_s=7.9,
    worker_claim_us=188.0,
    worker_wake_us=760.0,
    worker_base_mb=67.7,
    worker_stream_kb=21.2,
    flush_us=784.0,
    redis_event_us=11.5,
    redis_call_us=5.52,
    redis_flush_us=80.1,
    redis_delivery_us=1.82,
    redis_job_us=166.0,
    redis_stream_us_per_s=7.46,
    redis_claim_us=90.1,
    redis_wake_us=109.0,
    redis_waiting_job_bytes=1540.0,
    redis_finished_job_bytes=1080.0,
    redis_event_bytes=61.2,
    redis_text_bytes=28.0,
    gateway_delivery_us=90.2,
    gateway_opening_us=1730.0,
    gateway_base_mb=69.9,
    gateway_reader_kb=25.1,
    event_in_bytes=179.0,
    call_in_bytes=71.6,
    job_in_bytes=1480.0,
    delivery_out_bytes=135.0,
    sse_bytes=74.9,
)
