"""Lines about requests and the server itself: text for people, JSON for programs; never what a prompt says."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from aphrodite.server.errors import ApiError

LOG = logging.getLogger("aphrodite.server")
_MAX_PATH = 120


class AccessLog:
    """A line for each request that has been answered.

    is_on  whether; faults of the server are logged in any case
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self._is_on = is_on

    def answered(self, request_id: str, method: str, path: str, status: int, elapsed_s: float) -> None:
        """A request has been answered; status 0: the client left before."""
        is_fault = status in (500, 504)
        level = logging.WARNING if is_fault else logging.INFO
        if (self._is_on or is_fault) and LOG.isEnabledFor(level):
            what = (method, _printable(path), status or "left", elapsed_s * 1e3)
            # Made here, for `LOG.log` takes as long to find out who calls it.
            record = LOG.makeRecord(
                LOG.name, level, "", 0, "%s %s %s in %.1f ms", what, None, extra={"request_id": request_id}
            )
            LOG.handle(record)

    def refused(self, count: int, within_s: float) -> None:
        """So many requests were refused in that time because there was no room."""
        if self._is_on:
            LOG.info("%d requests refused within %g s: the queue is full", count, within_s)

    def broken(self, request_id: str, error: ApiError) -> None:
        """A stream has ended with an error."""
        LOG.warning("the stream ended: %s: %s", error.code, error.message, extra={"request_id": request_id})


class TextLines(logging.Formatter):
    """`12:00:01 INFO message [request]`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback of a fault of ours below it."""
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        about = f" [{record.request_id}]" if hasattr(record, "request_id") else ""
        line = f"{stamp} {record.levelname.lower():7} {_printable(record.getMessage(), 2000)}{about}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        found: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:2000],
        }
        if hasattr(record, "request_id"):
            found["request_id"] = record.request_id
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=True)


def set_up(form: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Lines on standard error: "text", "json", or "auto": text where a person looks."""
    stream = stream or sys.stderr
    if form == "auto":
        form = "text" if stream.isatty() else "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLines() if form == "text" else JsonLines())
    root = logging.getLogger("aphrodite")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False


def _printable(text: str, most: int = _MAX_PATH) -> str:
    """The text in one line that no terminal can be fooled by."""
    shown = text[: most + 1]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)
    return shown if len(shown) <= most else shown[: most - 3] + "..."
