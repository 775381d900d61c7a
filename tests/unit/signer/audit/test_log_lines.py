"""A line of the log is the whole record, with its MAC."""

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.logs import audit_logger
from backends.sql import SQLStore
from signer.audit.log import AuditLog, LogLines, parse_line
from signer.errors import InvalidInputError
from signer.model.audit_record import Operation, Purpose, Record, Subject
from tests.support.audit import START
from tests.support.ledgers import ROW_MACS
from tests.unit.signer.audit.hostile_records import TEXTS


SUBJECT = Subject("device", "01", "0x")

_EVENT = {"level", "logger", "mac", "record_id"}

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)


def _write(*records: Record) -> list[bytes]:
    """Return the lines of *records*."""
    stream = io.StringIO()
    AuditLog(audit_logger(stream)).log(*records)
    return stream.getvalue().encode().splitlines()


def _of(fields: Mapping[str, Any]) -> Record:
    """Return a record of *fields*, with its MAC."""
    record = Record.of(fields, START)
    return Record(record.id, record.body, ROW_MACS.compute(record))


@given(st.dictionaries(TEXTS.filter(lambda name: name not in _EVENT), _VALUES))
@settings(max_examples=50)
def test_the_line_has_the_whole_record(fields: Mapping[str, Any]) -> None:
    """A reader rebuilds the bytes that the MAC covers, with any text in them."""
    record = _of({"event": "test", **fields})

    (line,) = _write(record)
    read = parse_line(line)

    assert line.isascii()
    assert (read, read.mac) == (record, record.mac)
    assert ROW_MACS.is_valid(read.mac, read)
    changed = parse_line(line.replace(b'"event":"test"', b'"event":"text"'))
    assert not ROW_MACS.is_valid(changed.mac, changed)


@pytest.mark.parametrize("name", ["gateway", "Zo\u00eb", "\U0001f600\ufb33"])
def test_lines_of_a_log_with_a_journal_have_macs(
    sqlite_store: SQLStore, name: str
) -> None:
    """Row and line have the same MAC, which is computed once."""
    stream = io.StringIO()
    audit = AuditLog(audit_logger(stream), journal=sqlite_store)
    purpose = Purpose(Operation.SELF_TEST, actor=name, details={"note": f"of {name}"})
    intent = audit.intent(purpose, SUBJECT, bytes(32))

    audit.write(intent)

    read = parse_line(stream.getvalue().encode())
    assert read == intent
    assert read.mac == intent.mac
    assert ROW_MACS.is_valid(read.mac, read)


def test_a_redacted_value_is_redacted_in_the_record_too() -> None:
    """A reader sees that a value is not the original one."""
    audit = AuditLog(audit_logger(io.StringIO()))
    purpose = Purpose(Operation.SELF_TEST, details={"reference": "123456789012"})
    drafted = audit.intent(purpose, SUBJECT)
    record = _of(drafted.fields)

    read = parse_line(_write(record)[0])

    assert read.fields["details"] == {"reference": "[redacted]"}
    assert ROW_MACS.is_valid(read.mac, read)


def test_the_line_of_a_configuration_is_redacted() -> None:
    """It cannot be rebuilt: only the row has the document."""
    fields = {"event": "configuration-loaded", "details": {"secret": "ab"}}

    read = parse_line(_write(_of(fields))[0])

    assert read.fields["details"] == {"secret": "[redacted]"}
    assert not ROW_MACS.is_valid(read.mac, read)


def test_a_record_without_a_mac_has_a_line() -> None:
    """Such as one of a library, which has no ledger."""
    record = Record.of({"event": "test"}, datetime.now(UTC))

    (line,) = _write(record)

    assert b'"mac"' not in line
    assert parse_line(line) == record
    assert parse_line(line).mac is None


def test_a_line_begins_anew_after_a_failure() -> None:
    """The write that failed may have left a part of its line."""
    file, is_full = io.StringIO(), True

    def write(line: str) -> None:
        if is_full:
            file.write(line[:40])
            raise OSError(28, "No space left on device")
        file.write(f"{line}\n")

    lines, record = LogLines(write), _of({"event": "test"})
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            lines.write(record)
    is_full = False
    lines.write(record)
    lines.write(record)

    *_, first, second = file.getvalue().encode().splitlines()
    assert parse_line(first) == parse_line(second) == record


RECORD_ID = b"au_" + b"0" * 32


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{}", b"[]", b'{"event":"refund-delayed","level":"info"}'),
        *(
            b'{"record_id":5}',
            b'{"record_id":"au_1"}',
            b'{"record_id":"%s"' % RECORD_ID,
        ),
        *(
            b'{"a":%s,"record_id":"%s"}' % (value, RECORD_ID)
            for value in (
                *(b'1,"a":1', b"1.5", b"NaN", b'"\\ud800"', b"9007199254740992"),
                *(b"9" * 5000, b"[" * 1000 + b"]" * 1000, b'"\xff"'),
            )
        ),
    ],
    ids=range(15),
)
def test_other_lines_are_no_records(line: bytes) -> None:
    """A MAC of another type is none."""
    with pytest.raises(InvalidInputError):
        parse_line(line)
    assert parse_line(b'{"mac":5,"record_id":"%s"}' % RECORD_ID).mac is None
