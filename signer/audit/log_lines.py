"""
Writes audit records to a log.

A service writes each as one line of JSON in ASCII.  A library writes events to the
logger of the program that uses it.
"""

import json
from collections.abc import Callable
from typing import Any, Protocol

from signer.model.audit_record import Record
from signer.redact import redact_event


# Only records of a configuration have text that was not redacted when it was recorded.
_NOT_REDACTED = '"event":"configuration-'


class Logger(Protocol):
    """The part of a structlog logger that writes events."""

    def info(self, event: str, **fields: Any) -> object:
        """Write one event."""


class LogEvents:
    """Writes the fields of each record as an event of a structlog logger."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def write(self, record: Record) -> None:
        """Write one record; the errors of the logger reach the caller."""
        fields = record.fields
        self._logger.info(fields.pop("event"), record_id=record.id, **fields)


class LogLines:
    """
    Writes the stored body of each record, with the fields of a log event at its end.

    A record is not serialised again: its body is canonical JSON already, and redacted.
    """

    def __init__(self, write_line: Callable[[str], object]) -> None:
        """Write lines with *write_line*, which adds the end of the line."""
        self._write_line = write_line

    def write(self, record: Record) -> None:
        """Write one record; the errors of ``write_line`` reach the caller."""
        body = record.body
        if _NOT_REDACTED in body or not body.isascii():
            fields = redact_event(None, "", record.fields)
            body = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        event = f'"level":"info","logger":"audit","record_id":"{record.id}"'
        self._write_line(f"{body[:-1]},{event}}}")
