"""The server's log on stderr: lines of text, or of JSON."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from treeserve.server import call_log

LogFormat = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger and message; of a call, its fields instead."""

    def format(self, record: logging.LogRecord) -> str:
        """A line; an exception is in it with its traceback."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name}
        call = getattr(record, "call", None)
        line |= {"message": record.getMessage()} if call is None else {"message": "call", **call}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def start_logging(level: str, log_format: LogFormat, *, request_log: bool) -> None:
    """Send the process's log to stderr.

    Args:
        level: Of everything but the lines for calls.
        log_format: Of every line.
        request_log: Whether calls have lines, whatever the level.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if request_log:
        call_log.logger.setLevel(logging.INFO)
