"""What the records of a log say that a restored ledger has lost."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from api.extras.restore.plan import KeyChange, LostChanges, rebuild
from signer.audit.actions import AuditAction
from signer.model.audit_record import Record
from signer.model.refund import Refund
from signer.redact import REDACTED
from signer.refunds.transaction_signer import describe_acceptance
from tests.fixtures.ledger import bound
from tests.support.refunds import CUSTOMER, SECOND
from tests.support.restores import Restored, filling, plan_of, requested


AT = datetime(2026, 1, 2, tzinfo=UTC)


_HELD = {"network": "local", "token": "USDC", "contract": "0xab"}


def _record(event: str, details: dict[str, Any] | None = None, **fields: Any) -> Record:
    return Record.of({"event": event, "details": details, **fields}, AT)


def _signing(refund_id: str | None, **details: Any) -> Record:
    return _record(
        "digest-sign-requested", details, refund_id=refund_id, address=CUSTOMER
    )


def _changed(record: Record, **details: Any) -> Record:
    fields = record.fields
    fields["details"] |= details
    return Record.of(fields, AT)


def test_the_line_of_a_reservation_has_the_nonce(world: Restored) -> None:
    """So a process that dies after it leaves no nonce that is not known."""
    world.step(requested(world, "lost"))

    assert LostChanges(world.log).high_water((31337, world.signer.address)) == 1


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
def test_the_nonce_of_the_key_that_may_sign_counts(world: Restored, order: int) -> None:
    """A revocation moved the refund, for any clock that a host may have."""
    refund = world.step(requested(world, "lost"))
    world.rotate(block=True)
    world.step(world.stored(refund))

    lost = LostChanges(world.log[::order])

    (known,) = lost.refunds.values()
    first, second = ((refund.chain_id, s.address) for s in (world.signer, SECOND))
    assert known.find_wallet({world.signer.address}) == second
    last = second if order > 0 else first
    assert known.find_wallet({world.signer.address, SECOND.address}) == last
    assert lost.addresses() == {world.signer.address, SECOND.address}


@pytest.mark.parametrize(
    "record",
    [
        _signing(None, chain_id=1, nonce=1),
        _signing("rf_1", nonce=1),
        _signing("rf_1", chain_id=1),
        _record("digest-sign-succeeded"),
        _record("configuration-loaded", {}),
        _record("key-rotate-requested", {"key": "1"}),
        _record("signing-stop-succeeded", {"chain_id": "7", "reason": "theft"}),
    ],
    ids=["message", "no chain", "old", "self-test", "other", "attempt", "no network"],
)
def test_records_without_a_lost_change(record: Record) -> None:
    """A message has no nonce, and an earlier release logged it later."""
    lost = LostChanges([record])

    found = lost.refunds, lost.stops, lost.key_changes, lost.blocked_tenants
    assert not any((*found, lost.addresses()))


@pytest.mark.parametrize("refund_id", [None, "rf_" + "0" * 32], ids=["new", "old"])
def test_a_filler_is_known_as_one(world: Restored, refund_id: str | None) -> None:
    """An earlier restore made it, perhaps of a release in which it was a refund."""
    assert world.audit is not None
    world.step(requested(world, "first"))
    record = world.signer.intent(replace(filling(1), refund_id=refund_id))
    lost = LostChanges([record])

    assert not lost.refunds
    assert lost.high_water((31337, world.signer.address)) == 2
    plan = plan_of(world, [record])
    assert not plan.incomplete
    assert [each.fillers for each in plan.wallets] == [[1]]


_ROTATED = {"key": "2", "key_address": "b", "previous_key_address": "a"}
_STOLEN = "key-rotate-succeeded", {**_ROTATED, "compromised": True}
_REVOKED = "key-revoke-succeeded", {"key": "3", "key_address": "c"}


@pytest.mark.parametrize(
    ("records", "changes"),
    [
        (
            [
                _STOLEN,
                _REVOKED,
                ("key-failover-succeeded", {"key": "3", "key_address": "b"}),
            ],
            [
                KeyChange(AuditAction.KEY_ROTATE, "b", "2", "a", compromised=True),
                KeyChange(AuditAction.KEY_REVOKE, "c", "3"),
                KeyChange(AuditAction.KEY_FAILOVER, "b", "3"),
            ],
        ),
        (
            [
                _STOLEN,
                _REVOKED,
                ("key-revoke-succeeded", {"key": "4", "key_address": "d"}),
                ("key-reinstate-succeeded", {"key": "1", "key_address": "a"}),
                ("key-reinstate-succeeded", {"key": "3", "key_address": "c"}),
            ],
            [
                KeyChange(AuditAction.KEY_ROTATE, "b", "2", "a"),
                KeyChange(AuditAction.KEY_REVOKE, "d", "4"),
            ],
        ),
    ],
    ids=["in their order", "a revocation that was undone"],
)
def test_key_changes(
    records: Sequence[tuple[str, dict[str, Any]]], changes: Sequence[KeyChange]
) -> None:
    """Each with what is needed to repeat it."""
    written = [_record(*each) for each in records]

    lost = LostChanges(written)

    assert lost.key_changes == changes
    assert lost.administrative == written


def test_stops_and_blocks_at_the_end_of_the_log() -> None:
    """What was ended is not repeated."""
    lost = LostChanges(
        [
            _record("signing-stop-succeeded", {"network": None, "reason": "one"}),
            _record("signing-stop-succeeded", {"network": "local", "reason": "two"}),
            _record("signing-resume-succeeded", {"network": None, "reason": "ok"}),
            _record("signing-stop-succeeded", {**_HELD, "reason": "three"}),
            _record("signing-stop-succeeded", {**_HELD, "contract": "0xcd"}),
            _record("signing-resume-succeeded", {**_HELD, "contract": "0xcd"}),
            _record("tenant-block-succeeded", {"tenant": "shop"}),
            _record("tenant-block-succeeded", {"tenant": "gateway"}),
            _record("tenant-unblock-succeeded", {"tenant": "shop"}),
        ]
    )

    assert lost.stops == {("local", None): "two", ("local", "0xab"): "three"}
    assert lost.blocked_tenants == {"gateway"}


def _acceptance(world: Restored) -> tuple[Refund, Record]:
    refund = requested(world, "lost")
    return refund, world.log[-1]


@pytest.mark.parametrize("missing", ["created_at", "reference"])
def test_an_incomplete_acceptance_is_not_rebuilt(world: Restored, missing: str) -> None:
    """An earlier release wrote less, and a text may be redacted."""
    _, record = _acceptance(world)
    fields = record.fields
    del fields["details"][missing]
    redacted = _changed(record, reference=f"order {REDACTED}")

    assert rebuild(Record.of(fields, AT), AT) is None
    assert rebuild(redacted, AT) is None


def test_a_sweep_is_rebuilt(world: Restored) -> None:
    """Its record is that of the administrator's command."""
    refund, record = _acceptance(world)
    sweep = replace(refund, **bound())
    fields = record.fields
    fields["event"] = "key-sweep-succeeded"
    fields["details"] = describe_acceptance(sweep)

    due = replace(sweep, updated_at=AT, due_at=AT)
    assert rebuild(Record.of(fields, AT), AT) == due
