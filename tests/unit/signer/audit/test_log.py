"""Audit events name the caller, the key and the result, and contain no secret."""

import hashlib
import io
import itertools
import json
import os
from collections.abc import Mapping, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import bitcurve
import pytest
import rfc8785
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from api.logs import audit_logger
from backends.sql import SQLStore
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog, LogLines, parse_line
from signer.errors import (
    AccessDeniedError,
    AuditLogUnwritableError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    HotWalletError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Actor, Operation, Purpose, Record, Subject
from signer.ports.key_backend import DeviceSignature
from tests.support.audit import START
from tests.support.devices import (
    KEY_ID,
    FullDisk,
    components,
    honest,
    planted,
    point,
    recording,
    signer_over,
)
from tests.support.ledgers import ROW_MACS
from tests.support.refunds import altered
from tests.support.signings import Unchecked
from tests.unit.signer.audit.hostile_records import TEXTS


KEY = bitcurve.PrivateKey.from_int(0xA0D17)
DIGEST = hashlib.sha256(b"audited").digest()
PURPOSE = Unchecked(
    Operation.TRANSACTION_SIGNING,
    network="local",
    actor="gateway",
    request_id="req-1",
    refund_id="rf_1",
    details={"nonce": 7},
)

SUBJECT = Subject("device", "01", "0x")

INTENT_FIELDS = {
    *("event", "log_level", "timestamp", "operation", "network", "backend", "key_id"),
    *("address", "actor", "request_id", "refund_id", "token_id", "digest", "details"),
    *("record_id", "monotonic_us", "node", "pid"),
}
OUTCOME_FIELDS = INTENT_FIELDS | {
    *("outcome", "duration_us", "attempts", "device_request_ids")
}


Events = Sequence[MutableMapping[str, Any]]


@pytest.fixture
def events() -> Events:
    """The audit events of one signature."""
    audit, events = recording()
    signer_over(honest(KEY), audit).sign_digest(DIGEST, PURPOSE)
    return events


def test_a_signature_is_recorded_before_and_after(events: Events) -> None:
    """A signature has two events with exactly these fields (A8)."""
    intent, outcome = events

    assert intent.keys() == INTENT_FIELDS
    assert outcome.keys() == OUTCOME_FIELDS
    assert (intent["event"], outcome["event"]) == (
        "digest-sign-requested",
        "digest-sign-succeeded",
    )
    for event in (intent, outcome):
        assert (
            event.items()
            >= {
                "operation": "transaction-signing",
                "network": "local",
                "backend": "device",
                "key_id": "1234abcd...",
                "address": signer_over(honest(KEY)).address,
                "actor": "gateway",
                "request_id": "req-1",
                "refund_id": "rf_1",
                "digest": DIGEST.hex(),
                "node": os.uname().nodename,
                "pid": os.getpid(),
            }.items()
        )
    assert (outcome["outcome"], outcome["attempts"]) == ("success", 1)
    assert outcome["device_request_ids"] == ["request-1"]
    assert outcome["details"] == {"nonce": 7}


def test_events_are_plain_json_without_secrets(events: Events) -> None:
    """No floats, bytes of the signature, or more than eight characters of a key id."""
    for event in events:
        assert json.loads(json.dumps(event)) == event
        assert not any(isinstance(value, float) for value in event.values())
    r, s, _ = components(KEY, DIGEST)
    der = KEY.sign(DIGEST, hasher=None)
    written = json.dumps(list(events)).lower()

    for secret in (
        *(f"{r:x}", f"{s:x}", str(r), str(s), der.hex(), "signature("),
        *(KEY_ID, "arn:", "eu-central-1", "111122223333", "1234abcd-"),
    ):
        assert secret not in written


def test_a_device_signature_has_no_bytes_in_its_repr() -> None:
    answer = DeviceSignature(b"\x30\x06signature", "request-1")

    assert repr(answer) == "DeviceSignature(request_id='request-1')"


@pytest.mark.parametrize(
    "error",
    [
        BackendError("no"),
        BackendUnavailableError("no"),
        BackendThrottledError("no"),
        AccessDeniedError("no"),
        KeyNotFoundError("no"),
        KeyUnusableError("no"),
    ],
)
def test_a_failure_is_recorded_by_its_code(error: HotWalletError) -> None:
    """The outcome is the error code, and the error is raised to the caller."""
    audit, events = recording()

    with pytest.raises(type(error)):
        signer_over(planted(point(KEY), error), audit).sign_digest(DIGEST, PURPOSE)

    assert [event["event"] for event in events] == [
        "digest-sign-requested",
        "digest-sign-refused",
    ]
    assert events[1].keys() == OUTCOME_FIELDS
    assert events[1]["outcome"] == error.code
    assert events[1]["device_request_ids"] == []


def test_an_unexpected_failure_is_recorded_without_its_message() -> None:
    """An unknown exception is an internal error; its message may contain secrets."""
    audit, events = recording()
    device = planted(point(KEY), RuntimeError("PIN 1234 of arn:aws:kms"))

    with pytest.raises(RuntimeError):
        signer_over(device, audit).sign_digest(DIGEST, PURPOSE)

    assert events[1]["outcome"] == "internal-error"
    assert "1234 of" not in json.dumps(list(events))


def test_a_signature_that_fails_its_check_keeps_the_devices_request_id() -> None:
    """The log of the device can be matched even if its answer is rejected."""
    audit, events = recording()

    with pytest.raises(HotWalletError):
        signer_over(planted(point(KEY), b"?"), audit).sign_digest(DIGEST, PURPOSE)

    assert events[1]["device_request_ids"] == ["request-1"]


@pytest.mark.parametrize("written", [0, 1])
def test_without_a_record_there_is_no_signature(written: int) -> None:
    """
    If the request cannot be recorded, the device is not asked (I6).

    If the result cannot be recorded, the signature does not leave the process.
    """
    device = honest(KEY)
    signer = signer_over(device, AuditLog(FullDisk(good=written)))

    with pytest.raises(AuditLogUnwritableError, match="OSError"):
        signer.sign_digest(DIGEST, PURPOSE)

    assert device.calls == written


def test_the_duration_is_in_microseconds() -> None:
    """The duration covers the device and the checks, by a monotonic clock."""
    audit, events = recording()
    opened = signer_over(honest(KEY))
    ticks = itertools.count(1000.0, 0.25).__next__
    signer = Signer(honest(KEY), KEY_ID, opened.public_key, audit, timer=ticks)

    signer.sign_digest(DIGEST, PURPOSE)

    assert events[1]["duration_us"] == 250_000


def test_clock_and_node_name_can_be_set() -> None:
    """Timestamps have microseconds and an offset; a node name may be a container's."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(0)))
    audit, events = recording(clock=lambda: at, node="pod-7")
    audit.write(audit.intent(PURPOSE, SUBJECT, DIGEST))

    assert events[0]["timestamp"] == "2026-01-02T03:04:05.000000+00:00"
    assert events[0]["node"] == "pod-7"


@pytest.mark.parametrize("written", [0, 1])
def test_with_a_journal_only_the_lines_of_intents_are_required(
    sqlite_store: SQLStore, written: int
) -> None:
    """The journal may be lost: no signature is made without a line in the log (A1)."""
    device = honest(KEY)
    journal = altered(sqlite_store, append=lambda *records, condition=None: None)
    signer = signer_over(device, AuditLog(FullDisk(good=written), journal=journal))

    if written:
        assert signer.sign_digest(DIGEST, PURPOSE).r
    else:
        with pytest.raises(AuditLogUnwritableError, match="free the disk"):
            signer.sign_digest(DIGEST, PURPOSE)
    assert device.calls == written


def test_surrogates_are_replaced() -> None:
    """A user name or argument may contain any bytes; the record is written anyway."""
    at = datetime.now(UTC)
    record = Record.of(
        {"actor": "cli:\udcffb\u00e9", "details": {"key": "\ud800..."}}, at
    )

    assert record.fields == {"actor": "cli:?b\u00e9", "details": {"key": "?..."}}


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.text("az\x7f\xe9\ue000\U00010000", max_size=3), _values))
@settings(max_examples=50)
def test_every_record_has_the_form_of_rfc_8785(fields: dict[str, Any]) -> None:
    """The library rfc8785 writes the same bytes, or refuses the same fields."""
    at = datetime.now(UTC)
    try:
        expected = rfc8785.dumps(fields)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            Record.of(fields, at)
        return

    assert Record.of(fields, at).body.encode() == expected


@pytest.mark.parametrize(
    ("actor", "shown"),
    [
        ("spiffe://example.org/gateway", "[redacted]"),
        ("ops-eu-central-1", "ops-[redacted]"),
    ],
)
def test_redacted_actors_stay_distinguishable(actor: str, shown: str) -> None:
    """A redacted subject has a hash that distinguishes it from others."""
    log = AuditLog(structlog.get_logger())
    who = Actor(actor)
    record = log.request(AuditAction.DOCTOR_RUN, Operation.ADMINISTRATION, who)
    digest = hashlib.sha256(actor.encode()).hexdigest()

    assert record.fields["actor"] == f"{shown}#{digest[:16]}"


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
