"""One JSON object per line: what a machine can search, without anybody's words in it."""

import logging
import re
import sys
from typing import Any

from pythonjsonlogger.json import JsonFormatter

# Postgres' errors quote the row that they are about, and with it what somebody wrote.
_QUOTED_ROW = re.compile(r"^(?:DETAIL|CONTEXT):.*?(?=^\[SQL|^\n?The above exception|\Z)", re.M | re.S)


class _Formatter(JsonFormatter):
    """Adds the process's name; renames the standard fields to what log stores expect."""

    def __init__(self, process: str) -> None:
        super().__init__(
            "{asctime}{levelname}{name}{message}", style="{", datefmt="%Y-%m-%dT%H:%M:%S%z", json_ensure_ascii=False,
            rename_fields={"asctime": "at", "levelname": "level", "name": "logger"},
        )  # fmt: skip
        self.process = process

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data["process"] = self.process
        for field in ("arguments", "kwargs"):  # RQ's, of a job that failed: a lane is called by somebody's phone
            log_data.pop(field, None)
        for field in ("message", "exc_info"):
            if isinstance(log_data.get(field), str):
                log_data[field] = _QUOTED_ROW.sub("", log_data[field])


def set_up(process: str, level: str) -> None:
    """Everything of this process to standard error, libraries' chatter from WARNING up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(process))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    for ours in ("bot", "core", "integrations", "learning", "npllm"):
        logging.getLogger(ours).setLevel(level)
    logging.captureWarnings(True)
