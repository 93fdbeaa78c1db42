"""What this process counts of itself: requests, and how long live events take to a reader."""

from __future__ import annotations

from aiohttp import hdrs, web

from darkq.telemetry.metrics import Measure, Tally

REQUESTS = Measure(
    "darkq_gateway_http_requests",
    "Requests answered, by the pattern of their path and the class of the status.",
    ("method", "route", "status"),
)
RELAY = Measure(
    "darkq_gateway_relay_seconds",
    "From when live events reach this process to when their reader's socket has taken them.",
    is_histogram=True,
)
OWN = (REQUESTS, RELAY)

TALLY = web.AppKey("tally", Tally)


def count_response(tally: Tally, request: web.Request, route: str, status: int) -> None:
    """Count an answer, as it begins."""
    method = request.method if request.method in hdrs.METH_ALL else "other"
    tally.count(REQUESTS, method, route, f"{status // 100}xx")
