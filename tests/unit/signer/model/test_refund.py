"""Statuses of a refund, legal moves and ids."""

import pkgutil
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import pairwise, product
from typing import Any

import pytest

import signer.model
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import (
    COIN,
    IN_FLIGHT,
    OPEN,
    RECORDED,
    UNSENT,
    Refund,
    Status,
    is_refund_id,
    new_refund_id,
)
from signer.model.transaction import (
    CLAIM_TIME,
    Transaction,
    TransactionKind,
    TransactionStatus,
    compose,
)
from tests.fixtures.ledger import (
    WALLET,
    as_if,
    bound,
    delay,
    queued,
    status_moves,
    step_to,
)


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _refund(status: Status) -> Refund:
    return as_if(queued(), status=status)


def _draft(refund: Refund, **given: Any) -> Transaction:
    wallet = {"sender": WALLET, "nonce": 7, "key_id": "01", "gas_limit": 60_000}
    return Transaction.draft([refund], NOW, **{**wallet, **given})


def _moved(refund: Refund, after: Status) -> Refund:
    if refund.transaction is None and after in {Status.RESERVED, Status.MINED}:
        return refund.assigned(_draft(refund, status=TransactionStatus(after)))
    return step_to(refund, after, NOW)


def test_the_legal_moves() -> None:
    """They are those of the diagram in docs/explanation/refunds.md."""
    moves = {
        str(before): {*map(str, after)} for before, after in status_moves().items()
    }

    assert {before: after for before, after in moves.items() if after} == {
        "awaiting-approval": {"queued", "mined", "refused", "cancelled"},
        "queued": {"awaiting-approval", "reserved", "mined", "refused", "cancelled"},
        "reserved": {"signed", "mined", "failed"},
        "signed": {"broadcast"},
        "broadcast": {"signed", "mined", "failed"},
        "mined": {"broadcast", "confirmed", "failed"},
    }


def test_the_memo_is_that_of_earlier_releases() -> None:
    """A payment that an earlier release made is recognised on the chain (0010)."""
    refund = queued(tenant="gateway-1", chain_id=1, reference="refund-1")

    assert refund.memo.hex() == "63c407e3c7e8e68cd4646cd851261853"


@pytest.mark.parametrize(("before", "after"), list(product(Status, Status)))
def test_only_legal_moves_are_possible(before: Status, after: Status) -> None:
    """A legal move increases the revision; another one raises ValueError."""
    refund = delay(_refund(before), NOW, attempts=3, blocked_by="chain-unavailable")

    if after in status_moves()[before]:
        moved = _moved(refund, after)

        assert moved.status is after
        assert moved.revision > refund.revision
        now_moving = moved.moving
        assert (now_moving.updated_at, now_moving.due_at) == (NOW, NOW + CLAIM_TIME)
        assert (now_moving.attempts, now_moving.blocked_by) == (0, None)
        assert moved.id == refund.id
        if moved.state is refund.state:
            assert replace(moved, transaction=refund.transaction) == refund
    else:
        with pytest.raises(ValueError, match=f"from .* to |'{after}'|only `"):
            _moved(refund, after)


def test_a_move_of_both_is_one_step_of_each() -> None:
    """The refund ends with its transaction, and each row is compared and set."""
    refund = _refund(Status.MINED)

    confirmed = step_to(refund, Status.CONFIRMED, NOW)

    assert confirmed.state is PaymentState.CONFIRMED
    assert confirmed.reserved() == refund.reserved().with_status(
        TransactionStatus.CONFIRMED, NOW, due_at=NOW + CLAIM_TIME
    )
    assert (confirmed.version, confirmed.revision) == (1, 2)


def test_a_failure_is_kept_while_its_nonce_is_consumed() -> None:
    """The refund's row changes once; later attempts change the transaction alone."""
    reason: dict[str, Any] = {"failure_code": "reverted", "failure_detail": "why"}
    refund = _refund(Status.BROADCAST)

    signed = step_to(refund, Status.SIGNED, NOW, tx_hash="0x1", **reason)
    sent = step_to(signed, Status.BROADCAST, NOW)
    again = step_to(sent, Status.SIGNED, NOW, tx_hash="0x2", **reason)

    assert (signed.version, signed.reserved().version) == (1, 1)
    assert (again.version, again.reserved().version) == (1, 3)
    assert (again.failure_code, again.tx_hash) == ("reverted", "0x2")


def test_a_refund_has_one_transaction() -> None:
    """A second one could pay it twice."""
    refund = queued()
    paid = refund.assigned(_draft(refund))

    with pytest.raises(ValueError, match="from assigned to assigned"):
        paid.assigned(_draft(refund, nonce=8))


def test_a_transaction_names_its_refund() -> None:
    """Its digest of the payments is that of the one refund."""
    refund = queued()
    transaction = _draft(refund)
    paid = refund.assigned(transaction)

    assert transaction.composition == compose([refund.id])
    assert (paid.chain_id, paid.sender, paid.nonce, paid.position) == (
        *(transaction.chain_id, WALLET, 7),
        0,
    )
    assert (paid.key_id, paid.gas_limit) == ("01", 60_000)
    assert (paid.tx_hash, paid.block_number) == (None, None)
    assert paid.moving == transaction
    assert paid.due_at == transaction.due_at == NOW + CLAIM_TIME


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, TransactionKind.TRANSFER),
        (bound(), TransactionKind.TRANSFER),
        ({**bound(), "token": COIN}, TransactionKind.COIN),
        ({"purpose": PaymentPurpose.CALL}, TransactionKind.CALL),
    ],
    ids=["refund", "sweep", "coin", "call"],
)
def test_what_the_transaction_does(
    changes: dict[str, Any], kind: TransactionKind
) -> None:
    assert _draft(queued(**changes)).kind is kind


def test_final_statuses_have_no_moves() -> None:
    final = {status for status in Status if status.is_final}
    with pytest.raises(ValueError, match="not reserved"):
        queued().reserved()  # It has no key, no gas limit, no hash and no block.

    assert final == {Status.CONFIRMED, Status.REFUSED, Status.CANCELLED, Status.FAILED}
    assert set(Status) - final == OPEN
    assert UNSENT | IN_FLIGHT | {Status.AWAITING_APPROVAL} == OPEN
    assert not UNSENT & IN_FLIGHT


def test_with_due_at_keeps_the_status() -> None:
    """Only the due date, its reason and the version change, of what moves."""
    given: dict[str, Any] = {"attempts": 2, "blocked_by": "chain-unavailable"}
    waiting, signed = queued(), _refund(Status.SIGNED)

    assert waiting.with_due_at(NOW, **given) == replace(
        waiting, version=1, due_at=NOW, **given
    )
    later = replace(signed.reserved(), version=1, due_at=NOW, **given)
    assert delay(signed, NOW, **given) == signed.inside(later)


def test_a_refund_whose_transaction_was_removed_does_not_move() -> None:
    """Another program removed the row: the refund waits, and gets no second nonce."""
    refund = replace(_refund(Status.SIGNED), transaction=None)

    assert refund.status is Status.RESERVED
    for status in (Status.RESERVED, Status.SIGNED):
        with pytest.raises(ValueError, match="from assigned to assigned"):
            step_to(refund, status, NOW)
    with pytest.raises(ValueError, match="from assigned to assigned"):
        refund.assigned(_draft(refund))


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    """An id is rf_, 12 hex digits of milliseconds, and 80 random bits."""
    later = [NOW + timedelta(milliseconds=number) for number in range(100)]

    ids = [new_refund_id(at) for at in later]

    assert all(before < after for before, after in pairwise(ids))
    assert {len(id_) for id_ in ids} == {35}
    assert len({new_refund_id(NOW) for _ in range(1_000)}) == 1_000
    assert all(is_refund_id(id_) for id_ in ids)
    digits = "0" * 31
    for text in ("", "rf_", f"rf_{digits}", f"rf_{digits}00", "rf_" + "G" * 32, digits):
        assert not is_refund_id(text)

    assert ids[0][3:15] == f"{int(NOW.timestamp() * 1000):012x}"


def test_the_audit_record_has_no_free_text() -> None:
    """A reason may name a person, and the audit log is kept for ever."""
    assert RECORDED["token"] == "token_symbol"
    assert "reason" not in RECORDED


KINDS = [
    kind
    for module in pkgutil.iter_modules(signer.model.__path__)
    for kind in vars(import_module(f"signer.model.{module.name}")).values()
    if isinstance(kind, type) and is_dataclass(kind)
]
"""The values of the model."""


def test_nothing_changes_a_value_of_the_model() -> None:
    """A change is a new value, which a store compares with the row."""
    assert Refund in KINDS
    assert all(vars(kind)["__dataclass_params__"].frozen for kind in KINDS)


def test_values_are_shown_and_compared_without_their_macs() -> None:
    """A MAC is of a key and not of the value, and belongs in no log."""
    macs = {kind: each for kind in KINDS for each in fields(kind) if each.name == "mac"}

    assert Refund in macs
    assert not any(each.repr or each.compare for each in macs.values())
