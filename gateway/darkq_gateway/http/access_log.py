"""One line per request: what was asked of which route, and how it ended.

The route's pattern stands for the path, and nothing of the query, the headers or a body is there:
so no id, prompt, text or key can be.
"""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from darkq.telemetry.logging import LogEvent
from darkq_gateway.http.context import CALLER, REQUEST_ID, ROUTE, TRACE_ID


class AccessLogger(AbstractAccessLogger):
    """`request method=POST route=/jobs/{job_id}/cancel status=200 bytes=143 took_s=0.004 key=…`."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log a request that has been answered."""
        caller = request.get(CALLER)
        self.logger.info(
            LogEvent(
                "request",
                method=_word(request.method),
                route=request.get(ROUTE, "?"),
                status=response.status,
                bytes=response.body_length,
                took_s=round(time, 4),
                key=caller.key.id if caller is not None and caller.key is not None else None,
                request=request.get(REQUEST_ID),
                trace_id=request.get(TRACE_ID),
            ),
        )


class WithoutTexts(logging.Filter):
    """Keeps of an exception its type alone: its text may quote what a client has sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the texts off, and let the record pass."""
        if record.exc_info and record.exc_info[0] is not None:
            record.msg = f"{record.msg}: {record.exc_info[0].__name__}"
            record.exc_info = None
        return True


def _word(method: str) -> str:
    return method if method.isascii() and method.isalpha() and len(method) <= 16 else "?"
