"""Building, checking and signing the transactions of a refund."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from signer.chain.erc20 import decode_transfer
from signer.crypto.secp256k1 import HALF_N, Signature
from signer.crypto.transactions import DynamicFeeTransaction, SignedBytes
from signer.errors import (
    EncodingError,
    KeyUnusableError,
    PolicyViolationError,
    RecoveryError,
)
from signer.keys.signer import Signed, Signer
from signer.model.audit_record import Purpose
from signer.model.payment import PaymentState
from signer.model.refund import Refund
from signer.model.transaction import Kind, SignedTransaction
from signer.refunds.payload import transfer_of
from signer.refunds.transaction_signer import Attempt, SignedAttempt, TransactionSigner
from tests.fixtures.ledger import as_if
from tests.support.audit import record
from tests.support.devices import honest, recorded_outcomes, recording, signer_over
from tests.support.refunds import CUSTOMER, KEY, NETWORK, SECOND, World


GWEI = 10**9
ATTEMPT = Attempt(Kind.TRANSFER, 0, 62_500, 3 * GWEI, 2 * GWEI, is_legacy=False)


@pytest.fixture
def reserved(world: World) -> Refund:
    """A refund that has a nonce."""
    return world.step(world.accepted())


def _signed(world: World, refund: Refund, attempt: Attempt) -> SignedTransaction:
    signer = TransactionSigner(world.ring, world.clock, world.payment_policy)
    return signer.build_and_sign(refund.reserved(), attempt, NETWORK).attempt


def test_a_transfer_has_the_refunds_fields(world: World, reserved: Refund) -> None:
    """Each field is the refund's or the attempt's, and the stored bytes are signed."""
    record = _signed(world, reserved, ATTEMPT)

    signed = SignedBytes.decode(record.raw)
    assert signed.transaction == DynamicFeeTransaction(
        chain_id=reserved.chain_id,
        nonce=0,
        max_priority_fee_per_gas=2 * GWEI,
        max_fee_per_gas=3 * GWEI,
        gas=62_500,
        to=reserved.token_address,
        value=0,
        data=transfer_of(reserved).data,
    )
    assert signed.tx_hash == record.tx_hash
    assert (record.attempt, record.kind) == (0, Kind.TRANSFER)
    assert (record.chain_id, record.sender, record.nonce) == (
        reserved.chain_id,
        world.signer.address,
        0,
    )
    assert (
        record.max_fee_per_gas,
        record.max_priority_fee_per_gas,
        record.gas_limit,
        record.signed_at,
    ) == (3 * GWEI, 2 * GWEI, 62_500, world.clock())


def test_a_transfer_carries_the_refunds_memo(reserved: Refund) -> None:
    """Recipient, amount, and 16 bytes that identify the refund."""
    assert decode_transfer(transfer_of(reserved).data) == (
        CUSTOMER.lower(),
        12_500_000,
        reserved.memo,
    )


def test_a_memo_depends_on_chain_client_and_reference(reserved: Refund) -> None:
    """A backup cannot lose any of them."""
    others = [
        replace(reserved, chain_id=1),
        replace(reserved, tenant="other"),
        replace(reserved, reference="other"),
    ]
    forgotten = replace(
        reserved,
        id="rf_x",
        idempotency_key="x",
        state=PaymentState.QUEUED,
        nonce=None,
        transaction=None,
    )

    assert len({refund.memo for refund in [reserved, *others]}) == 4
    assert forgotten.memo == reserved.memo
    assert len(reserved.memo) == 16


def test_a_noop_sends_nothing_to_the_wallet_itself(
    world: World, reserved: Refund
) -> None:
    """It has the refund's nonce, 21,000 gas, no value, no token and no data."""
    attempt = replace(ATTEMPT, kind=Kind.NOOP, number=3, gas=21_000)

    record = _signed(world, reserved, attempt)

    transaction = SignedBytes.decode(record.raw).transaction
    assert (transaction.to, transaction.data, transaction.value) == (
        world.signer.address,
        b"",
        0,
    )
    assert (transaction.nonce, transaction.gas) == (0, 21_000)
    assert (record.kind, record.attempt) == (Kind.NOOP, 3)


TAMPERED: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "another sender (O4)": ({"sender": SECOND.address}, {}, KeyUnusableError, "ring"),
    **{
        f"another chain, {kind} (T8)": (
            {"chain_id": 1},
            {"kind": kind},
            PolicyViolationError,
            "chain-id",
        )
        for kind in Kind
    },
    "a fee above the cap (T8)": (
        {},
        {"max_fee": NETWORK.max_fee_per_gas_gwei * GWEI + 1},
        PolicyViolationError,
        "max-fee",
    ),
    "no nonce": ({"transaction": None}, {}, ValueError, "not reserved"),
}


@pytest.mark.parametrize(
    ("row", "attempt", "error", "message"), TAMPERED.values(), ids=TAMPERED
)
def test_a_refund_that_was_changed_reaches_no_device(
    *,
    world: World,
    reserved: Refund,
    row: dict[str, Any],
    attempt: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """Sender, chain, fees and nonce are checked again before the device (O4, T8)."""
    device = honest(KEY)
    world.signer = signer_over(device)

    changed = replace(reserved, **row)
    if changed.transaction is not None:  # The two rows name each other.
        changed = as_if(changed)

    with pytest.raises(error, match=message):
        _signed(world, changed, replace(ATTEMPT, **attempt))

    assert device.calls == 0


class Swapping(Signer):
    """A signer that returns a signature over another digest."""

    def _sign(self, digest: bytes, purpose: Purpose) -> Signed:
        """Return a valid signature that has nothing to do with *digest*."""
        return super()._sign(bytes(reversed(digest)), purpose)


BUGS: dict[str, tuple[dict[str, Any], Callable[[Signature], Signature]]] = {
    **{
        name: ({name: value}, lambda signature: signature)
        for name, value in {
            "chain_id": 1,
            "nonce": 1,
            "max_priority_fee_per_gas": 1,
            "max_fee_per_gas": 4 * GWEI,
            "gas": 62_501,
            "to": SECOND.address,
            "value": 1,
            "data": b"",
        }.items()
    },
    "r": ({}, lambda made: replace(made, r=made.r ^ 1)),
    "s": ({}, lambda made: replace(made, s=HALF_N - made.s)),
    "parity": ({}, lambda made: replace(made, y_parity=1 - made.y_parity)),
}


@pytest.mark.parametrize(("change", "other"), BUGS.values(), ids=BUGS)
def test_a_bug_in_the_serialiser_is_noticed(
    *,
    world: World,
    reserved: Refund,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    other: Callable[[Signature], Signature],
) -> None:
    """The bytes must contain the checked transaction and its signature (T11)."""
    audit, events = recording()
    world.signer = signer_over(honest(KEY), audit)
    serialise = DynamicFeeTransaction.serialise

    def with_bug(transaction: DynamicFeeTransaction, signature: Signature) -> bytes:
        return serialise(replace(transaction, **change), other(signature))

    monkeypatch.setattr(DynamicFeeTransaction, "serialise", with_bug)

    with pytest.raises(EncodingError, match="another transaction"):
        world.lifecycle.step(reserved)

    assert world.stored(reserved) == reserved
    assert world.store.transactions(reserved.id) == ()
    assert recorded_outcomes(events) == ["success"]


def test_threads_share_a_transaction_signer(world: World, reserved: Refund) -> None:
    """Each gets the bytes, the signature and the record of its own refund."""
    shared = TransactionSigner(world.ring, world.clock, world.payment_policy)
    refunds = [as_if(reserved, id=f"rf_{n}", nonce=n) for n in range(16)]

    def sign(refund: Refund) -> SignedAttempt:
        paying = replace(refund.reserved(), intent=record())
        return shared.build_and_sign(paying, ATTEMPT, NETWORK)

    with ThreadPoolExecutor(8) as pool:
        payments = list(pool.map(sign, refunds))

    for refund, payment in zip(refunds, payments, strict=True):
        signed = SignedBytes.decode(payment.attempt.raw)
        digest = signed.transaction.signing_digest()
        assert signed.transaction.nonce == refund.nonce
        assert signed.signature.recover(digest) == world.signer.public_key
        assert payment.outcome.fields["refund_id"] == refund.id
        assert payment.outcome.fields["digest"] == digest.hex()
        assert payment.outcome.fields["details"]["tx_hash"] == signed.tx_hash


def test_a_signature_over_another_digest_is_dropped(
    world: World, reserved: Refund
) -> None:
    """The signature must have been verified over the transaction's digest (T11)."""
    opened = world.signer
    audit, _ = recording()
    world.signer = Swapping(honest(KEY), opened.key_id, opened.public_key, audit)

    with pytest.raises(RecoveryError):
        world.lifecycle.step(reserved)

    assert world.stored(reserved) == reserved
    assert world.store.transactions(reserved.id) == ()
