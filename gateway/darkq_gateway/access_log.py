"""One line per request: what was asked of which route, and how it ended.

The route's pattern stands for the path, and nothing of the query, the headers or a body is there:
so no id, prompt, text or key can be.
"""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from darkq_gateway.context import CALLER, REQUEST_ID, ROUTE


class AccessLogger(AbstractAccessLogger):
    """`POST /jobs/{job_id}/cancel 200 143 B 0.004 s key=1f0c… request=…`."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log a request that has been answered."""
        caller = request.get(CALLER)
        self.logger.info(
            "%s %s %d %d B %.3f s key=%s request=%s",
            _word(request.method),
            request.get(ROUTE, "?"),
            response.status,
            response.body_length,
            time,
            caller.key.id if caller is not None and caller.key is not None else "-",
            request.get(REQUEST_ID, "-"),
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
