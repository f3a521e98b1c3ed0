"""Structured logs on stderr: one JSON object a line, or plain coloured lines on a terminal.

Writing never holds up the event loop: records go through a bounded queue to a thread, and what does not fit is counted.
What looks like a secret is struck out, and every line is capped.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import re
import sys
import threading
from typing import TextIO

import msgspec

from doorward.base.clock import rfc3339

_LINE_CHARS = 8_192
_QUEUE_COUNT = 4_096
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRETS = re.compile(
    r"(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}"
    r"|\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"
    r"|\b(?:sk|pk|rk|ghp|gho|ghs|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_-]{10,}"
    r"|\bAKIA[A-Z0-9]{12,}"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"
)
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def redact(text: str) -> str:
    """Strike out what has the shape of a secret."""
    return _SECRETS.sub("[secret]", text)


def _visible(text: str) -> str:
    """Control characters cannot move a terminal's cursor or begin a new line."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


class _Lines(logging.Formatter):
    """Write a record as one line."""

    def __init__(self, *, pretty: bool) -> None:
        super().__init__()
        self._pretty = pretty

    def format(self, record: logging.LogRecord) -> str:
        extra = {
            name: value
            if isinstance(value, int | float | bool) or value is None
            else redact(str(value))[:1024]
            for name, value in vars(record).items()
            if name not in _STANDARD and not name.startswith("_")
        }
        message = redact(record.getMessage())
        trace = ""
        if record.exc_info and record.exc_info[1] is not None:
            trace = redact(self.formatException(record.exc_info))
        if self._pretty:
            colour = _COLOURS.get(record.levelname, "0")
            words = " ".join(f"{name}={_visible(str(value))}" for name, value in extra.items())
            line = (
                f"\x1b[{colour}m{record.levelname.lower():8}\x1b[0m {_visible(message)} \x1b[2m{words}\x1b[0m"
            )
            return (
                line + ("\n" + "\n".join(_visible(part) for part in trace.splitlines()) if trace else "")
            )[:_LINE_CHARS]
        value = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message[: _LINE_CHARS // 2],
            "pid": record.process,
            **extra,
        }
        if trace:
            value["trace"] = trace[-_LINE_CHARS // 2 :]
        return msgspec.json.encode(value).decode()


class _QueuedHandler(logging.Handler):
    """Hand lines to a thread; drop and count when it does not keep up."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_QUEUE_COUNT)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="doorward-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1
        except Exception:  # noqa: BLE001 - a record that cannot be written must not end a request
            self._dropped += 1

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    self._stream.write(
                        f'{{"level":"warning","message":"log lines dropped","count":{dropped}}}\n'
                    )
                self._stream.write(line + "\n")
                self._stream.flush()

    def drain(self) -> None:
        """Write what waits, for at most a second."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=1.0)
        self._thread.join(1.0)


def configure_logs(level: str = "") -> None:
    """Set up logging for this process; ``level`` defaults to DOORWARD_LOG or info."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    handler = _QueuedHandler(sys.stderr)
    handler.setFormatter(_Lines(pretty=sys.stderr.isatty()))
    root.addHandler(handler)
    wanted = (level or os.environ.get("DOORWARD_LOG", "info")).upper()
    root.setLevel(wanted if wanted in _COLOURS else "INFO")
    for noisy in ("alembic", "sqlalchemy", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    atexit.register(handler.drain)
