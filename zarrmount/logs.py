"""Where log lines go, and in which form."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from pathlib import Path

__all__ = ["configure_logging"]

_MOST_BYTES = 10 << 20
_OLD_FILES = 3


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message`` and, for faults, ``trace``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(file: Path | None, form: str, verbosity: int) -> None:
    """Send the log of this process to a file that is rotated, or to standard error.

    Parameters
    ----------
    file : Path or None
        The file; None for standard error.
    form : str
        ``text`` or ``json``.
    verbosity : int
        0 for what a person should know; more for each refused call, too.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(file, maxBytes=_MOST_BYTES, backupCount=_OLD_FILES)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    level = logging.DEBUG if verbosity else logging.INFO
    for name in ("zarrmount", "stores"):
        logging.getLogger(name).setLevel(level)
