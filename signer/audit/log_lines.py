"""
Writes audit records to a log.

A service writes each as one line of JSON in ASCII.  A library writes events to the
logger of the program that uses it.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from signer import strict_json
from signer.audit.canonical_json import is_record_id
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, write_canonical
from signer.redact import redact_event


# Only records of a configuration have text that was not redacted when it was recorded.
_NOT_REDACTED = '"event":"configuration-'

# The fields of a line that are not in the record's body.
_EVENT_FIELDS = ("level", "logger", "mac", "record_id")


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
    Its MAC shows that the line is one of the service: ``parse_line`` reads it.
    """

    def __init__(self, write_line: Callable[[str], object]) -> None:
        """Write lines with *write_line*, which adds the end of the line."""
        self._write_line = write_line
        self._has_failed = False

    def write(self, record: Record) -> None:
        """Write one record; the errors of ``write_line`` reach the caller."""
        body = record.body
        if _NOT_REDACTED in body:
            body = _dump_ascii(redact_event(None, "", record.fields))
        elif not body.isascii():
            body = _dump_ascii(record.fields)
        mac = "" if record.mac is None else f'"mac":"{record.mac}",'
        event = f'"level":"info","logger":"audit",{mac}"record_id":"{record.id}"'
        self._write(f"{body[:-1]},{event}}}")

    def _write(self, line: str) -> None:
        # A write that failed may have left a part of its line.
        line = f"\n{line}" if self._has_failed else line
        try:
            self._write_line(line)
        except OSError:
            self._has_failed = True
            raise
        self._has_failed = False


def parse_line(line: bytes) -> Record:
    """
    Return the record of a *line* of ``LogLines``, with its MAC, which is not verified.

    The line of a configuration's record is redacted, so the MAC does not fit it.

    Raises:
        InvalidInputError: It is another line.
    """
    fields = strict_json.parse(line)
    event = {name: fields.pop(name, None) for name in _EVENT_FIELDS}
    record_id, mac = event["record_id"], event["mac"]
    if not isinstance(record_id, str) or not is_record_id(record_id):
        raise InvalidInputError("not the line of an audit record")
    try:
        body = write_canonical(fields)
    except ValueError:
        raise InvalidInputError("not the line of an audit record") from None
    return Record(record_id, body, mac if isinstance(mac, str) else None)


def _dump_ascii(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))
