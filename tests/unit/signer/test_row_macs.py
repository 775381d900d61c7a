"""MACs of rows: what they cover, their keys, and the files of the keys."""

import hashlib
import hmac
import json
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from signer.errors import ConfigurationError, RowNotAuthenticError
from signer.model.audit_record import Record
from signer.model.hold import Hold
from signer.model.key import Key, KeyState
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction, TransactionStatus
from signer.model.wallet import Pause, Wallet
from signer.row_macs import RowMACs, key_number
from tests.fixtures.ledger import now, queued, unrecorded
from tests.support.keys import key_at


OLD, NEW = b"\x01" * 32, b"\x02" * 32
MACS = RowMACs({"new": NEW, "old": OLD})

# What changes after the acceptance, and what is not stored.
MOVED = {"updated_at", "version", "due_at", "attempts", "blocked_by", "mac"}
MUTABLE = MOVED | {
    *("state", "sender", "nonce", "position", "failure_code", "failure_detail"),
    *("cancel_requested_at", "transaction", "intent"),
}
OUTCOME = MOVED | {"status", "tx_hash", "block_number", "block_hash"}

# What other rows have; the composition, which is covered, names the payments.
ELSEWHERE = {"payments", "strangers", "members", "intent"}

# The MAC itself, what is not stored, and what decides nothing about signatures.
NOT_COVERED = {"mac", "is_authentic", "proved_at", "next_nonce", "is_held"}

ROWS: list[Any] = [
    replace(key_at("0x01"), epoch=1, held_until=now()),
    Hold("network 7", now(), "a test", "worker", "signing-stopped", "{}", now()),
    Wallet(7, "0x01", 2, 9, Pause.CHAIN_AHEAD, now(), 3),
    unrecorded(memo=b"m" * 16, accepted_at=now()),
]


def _changed(value: Any) -> Any:
    """Return another value of the same type."""
    match value:
        case None | str():
            return f"{value}x"
        case int():
            return value + 1
        case bytes():
            return value + b"x"
    return value + timedelta(microseconds=1)


@pytest.mark.parametrize("name", [each.name for each in fields(Refund)])
def test_what_a_refund_pays_is_covered(name: str) -> None:
    """Every field is covered, except those that change after the acceptance."""
    refund = queued(mac="none")
    refund = MACS.sealed(refund)
    value = {
        "state": PaymentState.CANCELLED,
        "mac": refund.mac,
        "intent": Record("", ""),
    }
    change = value.get(name, _changed(getattr(refund, name)))
    changed = replace(refund, **{name: change})

    MACS.require(refund)
    if name in MUTABLE:
        MACS.require(changed)
    else:
        with pytest.raises(RowNotAuthenticError, match=changed.id):
            MACS.require(changed)


@pytest.mark.parametrize(
    "name", sorted({each.name for each in fields(Transaction)} - ELSEWHERE)
)
def test_what_a_transaction_does_is_covered(name: str) -> None:
    """Its nonce, its payments, its key and its gas limit, but not its outcome."""
    transaction = MACS.sealed(queued(status=Status.RESERVED).reserved())
    value = {"status": TransactionStatus.FAILED, "mac": transaction.mac}
    change = value.get(name, _changed(getattr(transaction, name)))
    changed = replace(transaction, **{name: change})

    MACS.require(transaction)
    if name in OUTCOME:
        MACS.require(changed)
    else:
        with pytest.raises(RowNotAuthenticError):
            MACS.require(changed)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (row, each.name)
        for row in ROWS
        for each in fields(row)
        if each.name not in NOT_COVERED
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_field_of_other_rows_is_covered(row: Any, name: str) -> None:
    """The version is covered too, so an old row has another MAC."""
    sealed = MACS.sealed(row)
    members = {"state": KeyState.RETIRED, "paused_by": Pause.UNKNOWN_HISTORY}
    value = members.get(name) or _changed(getattr(row, name))

    MACS.require(sealed)
    if isinstance(row, Key):
        MACS.require(replace(sealed, proved_at=now()))  # A proof needs no MAC.
    with pytest.raises(RowNotAuthenticError):
        MACS.require(replace(sealed, **{name: value}))


def test_a_mac_can_be_recomputed() -> None:
    """The format is documented: an auditor with the key can compute each MAC."""
    record = Record("au_1", '{"event":"test"}')
    message = json.dumps(["hotwallet audit record 1", "au_1", record.body])
    message = message.replace('", "', '","')
    expected = hmac.new(NEW, message.encode(), hashlib.sha256).hexdigest()

    assert MACS.compute(record) == f"new:{expected}"


def test_keys_are_rotated() -> None:
    """The first key makes MACs; the others still verify."""
    record = Record("au_1", "{}")
    before = RowMACs({"old": OLD}).compute(record)

    assert MACS.is_valid(before, record)
    assert not MACS.is_current(before)
    assert MACS.is_current(MACS.compute(record))
    assert not RowMACs({"new": NEW}).is_valid(before, record)


@pytest.mark.parametrize(
    "mac", [None, "", "new", "new:", "new:00", "other:00", "new:é"]
)
def test_what_is_not_a_mac(mac: str | None) -> None:
    assert not MACS.is_valid(mac, Record("au_1", "{}"))
    assert not MACS.is_current(None)
    assert not MACS.is_mac_of_text(mac or "", "a session", "alice")


def test_a_generated_file(tmp_path: Path) -> None:
    """Each generated key differs, and its file can be loaded."""
    path = tmp_path / "mac.key"
    path.touch(0o600)
    path.write_bytes(RowMACs.generate() + RowMACs.generate())
    record = Record("au_1", "{}")

    loaded = RowMACs.load(path)

    assert loaded.is_valid(loaded.compute(record), record)
    assert not MACS.is_valid(loaded.compute(record), record)
    assert repr(loaded) == "RowMACs()"
    assert key_number(RowMACs.generate().decode().partition(" ")[0]) == 1


def test_a_key_that_another_program_derives(tmp_path: Path) -> None:
    """A line with an ARN has its id, and is refused where nothing derives its key."""
    path = tmp_path / "mac.key"
    path.touch(0o600)
    arn, key = "arn:aws:kms:eu-central-1:123456789012:key/1", bytes(range(32))
    path.write_bytes(RowMACs.generate(2, (arn, key)) + RowMACs.generate())
    record = Record("au_1", "{}")

    loaded = RowMACs.load(path, {arn: key}.__getitem__)

    assert loaded.compute(record).startswith("2-")
    assert not RowMACs.load(path, {arn: key}.__getitem__).is_valid(None, record)
    with pytest.raises(ConfigurationError, match="an id is of another key"):
        RowMACs.load(path, lambda _: bytes(32))
    with pytest.raises(ConfigurationError, match="does not read keys in KMS"):
        RowMACs.load(path)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"id\n", b"id " + b"0" * 63, b"id " + b"A" * 64),
        *(b"an id " + b"0" * 64, b"id " + b"0" * 64 + b"\nid " + b"1" * 64),
        b"id " + b"0" * 64 + b"\n\xff",
    ],
)
def test_unusable_files(tmp_path: Path, content: bytes) -> None:
    """
    A refusal names what is expected, and does not quote the file.

    Other hosts would refuse the MACs of a key with one changed digit.
    """

    path = tmp_path / "mac.key"
    path.touch(0o600)
    path.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        RowMACs.load(path)
    (refusal,) = caught.value.refusals
    assert refusal.code == "mac-key-invalid"
    assert "64 hex digits" in refusal.message
    assert "00000" not in refusal.message
    for index in (-2, 2):  # A digit of the key, and one of its id.
        line = bytearray(RowMACs.generate(number=3))
        line[index] = ord("0") if line[index] != ord("0") else ord("1")
        path.write_bytes(line)
        with pytest.raises(ConfigurationError, match="an id is of another key: copy"):
            RowMACs.load(path)


def test_a_file_of_others(tmp_path: Path) -> None:
    """A missing file, a folder, and a file that others can read are refused."""
    path = tmp_path / "mac.key"
    with pytest.raises(ConfigurationError, match="not exist; `hotwallet db mac-key"):
        RowMACs.load(path)
    with pytest.raises(ConfigurationError, match="IsADirectoryError"):
        RowMACs.load(tmp_path)
    path.write_bytes(RowMACs.generate())
    path.chmod(0o640)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        RowMACs.load(path)


def test_the_mac_of_a_text_is_for_one_purpose() -> None:
    """No other text, purpose or key has it, and neither has a row."""
    mac = MACS.mac_of_text("a session", "alice")

    assert MACS.is_mac_of_text(mac, "a session", "alice")
    assert not MACS.is_mac_of_text(mac, "a session", "alicf")
    assert not MACS.is_mac_of_text(mac, "a form", "alice")
    assert not MACS.is_mac_of_text(mac.replace("new", "old"), "a session", "alice")
    assert not MACS.is_valid(mac, Record("alice", ""))
    old = RowMACs({"old": OLD}).mac_of_text("a session", "alice")
    assert MACS.is_mac_of_text(old, "a session", "alice")


def test_an_equal_value_of_another_type_is_another_row() -> None:
    """Although the MAC of the row is remembered."""
    hold = MACS.sealed(Hold("network 7", now(), "1", "worker", version=1))
    assert MACS.is_valid(hold.mac, hold)

    values: list[Any] = [True, 1.0]
    for value in values:
        assert not MACS.is_valid(hold.mac, replace(hold, version=value))


def test_long_rows_have_macs_too() -> None:
    """They are not remembered, so that they do not fill the memory."""
    macs = RowMACs({"new": NEW})
    record = Record("au_1", "x" * 5000)
    mac = macs.compute(record)

    assert macs.is_valid(mac, record)
    assert not macs.is_valid(mac, Record("au_1", "x" * 5001))
    assert macs._remembered.cache_info().currsize == 0
