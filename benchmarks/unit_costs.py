"""The measured unit costs with which `capacity` calculates.

Processor time is in µs of one core of the machine named below. A chunk has 14 characters, and is
an event of its own unless it waited. A call is a script that writes events of one partition; a
flush is one write of a worker to one server.
"""

from __future__ import annotations

from typing import NamedTuple


class UnitCosts(NamedTuple):
    """Names end with their unit."""

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
    flush_event_us: float
    """So much longer for each of its events."""

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
    """In the log of a running job, without its text."""
    redis_kept_event_bytes: float
    """In the result of a completed job."""
    redis_text_bytes: float
    """A chunk's characters."""

    # A gateway process
    gateway_delivery_us: float
    gateway_opening_us: float
    gateway_base_mb: float
    gateway_reader_kb: float

    # The network
    event_in_bytes: float
    call_in_bytes: float
    job_in_bytes: float
    delivery_out_bytes: float
    sse_bytes: float


MACHINE = "Intel Xeon, 2 cores, Linux 6.18; Python 3.11, uvloop, valkey-server 9.1, loopback"

MEASURED = UnitCosts(
    worker_event_us=21.7,
    worker_call_us=0.0,
    worker_flush_us=116.0,
    worker_job_us=198.0,
    worker_stream_us_per_s=5.0,
    worker_claim_us=225.0,
    worker_wake_us=9.45,
    worker_base_mb=69.7,
    worker_stream_kb=20.9,
    flush_us=606.0,
    flush_event_us=0.0,
    redis_event_us=1.43,
    redis_call_us=2.27,
    redis_flush_us=40.9,
    redis_delivery_us=4.95,
    redis_job_us=51.6,
    redis_stream_us_per_s=2.34,
    redis_claim_us=56.5,
    redis_wake_us=3.97,
    redis_waiting_job_bytes=718.0,
    redis_finished_job_bytes=704.0,
    redis_event_bytes=61.2,
    redis_kept_event_bytes=1.1,
    redis_text_bytes=14.0,
    gateway_delivery_us=32.5,
    gateway_opening_us=966.0,
    gateway_base_mb=72.5,
    gateway_reader_kb=19.4,
    event_in_bytes=179.0,
    call_in_bytes=71.9,
    job_in_bytes=1570.0,
    delivery_out_bytes=128.0,
    sse_bytes=77.1,
)
