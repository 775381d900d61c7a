"""Contract of ``RefundStore.reserve_all``: no gap in the nonces, and no nonce twice."""

import pytest

from backends.sql import SQLStore
from signer.errors import StaleStateError, StoreError
from signer.model.refund import Status
from signer.model.transaction import Transaction
from signer.model.wallet import Pause
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    moved,
    now,
    opened,
    queued,
    reserve,
    reserved,
    unrecorded,
)
from tests.support.keys import key_at, made_active


KEY_ID = key_at(WALLET).key_id


def test_a_reservation_is_stored(store: SQLStore) -> None:
    """The returned refund has the given values and equals the stored one."""
    opened(store, first=3)
    refund = accepted(store)
    at = now()
    after = reserve(
        store, refund, sender=WALLET, key_id=KEY_ID, gas_limit=7, counted=3, at=at
    )

    assert after == refund.assigned(
        Transaction.draft(
            [refund], at, sender=WALLET, key_id=KEY_ID, gas_limit=7, nonce=3
        )
    )
    assert after == store.get(refund.id)


def test_nonces_are_consecutive(store: SQLStore) -> None:
    """Each nonce is one more than the highest, even if the chain counts less."""
    opened(store, first=5)
    nonces = [reserved(store, accepted(store)).nonce for _ in range(4)]

    assert nonces == [5, 6, 7, 8]


def test_a_chain_ahead_gives_no_nonce(store: SQLStore) -> None:
    """If the chain counts more than the ledger, the reservation fails."""
    refund = reserved(store, accepted(store), counted=0)
    assert refund.nonce == 0
    refund = accepted(store)

    with pytest.raises(StaleStateError):
        reserved(store, refund, counted=2)
    assert refund == store.get(refund.id)
    assert reserved(store, refund, counted=1).nonce == 1


def test_nonces_of_unrecorded_transactions_are_used(store: SQLStore) -> None:
    wallet = opened(store)
    assert reserved(store, accepted(store)).nonce == 0
    seen = [unrecorded(nonce=1), unrecorded(nonce=2, memo=b"m" * 16)]
    store.add_unrecorded(wallet, seen)

    assert reserved(store, accepted(store), counted=3).nonce == 3
    assert reserved(store, accepted(store), counted=3).nonce == 4


def test_a_wallet_must_be_opened(store: SQLStore) -> None:
    made_active(store, key_at(WALLET))
    refund = accepted(store)

    with pytest.raises(StaleStateError):
        reserve(
            store,
            refund,
            sender=WALLET,
            key_id=KEY_ID,
            gas_limit=7,
            counted=0,
            at=now(),
        )
    assert refund == store.get(refund.id)


def test_a_paused_wallet_gives_no_nonce(store: SQLStore) -> None:
    store.pause(opened(store), Pause.CHAIN_AHEAD, now())
    refund, other = accepted(store), accepted(store)

    with pytest.raises(StaleStateError):
        reserved(store, refund)
    assert refund == store.get(refund.id)
    assert reserved(store, other, sender=OTHER_WALLET).nonce == 0
    store.resume(opened(store), now(), ())
    assert reserved(store, refund).nonce == 0


def test_a_paid_refund_gets_no_nonce(store: SQLStore) -> None:
    """A refund whose memo is on the chain counts as paid."""
    paid, other = accepted(store), accepted(store)
    store.add_unrecorded(opened(store), [unrecorded(memo=paid.memo)])

    with pytest.raises(StaleStateError):
        reserved(store, paid, counted=1)
    assert paid == store.get(paid.id)
    assert reserved(store, other, counted=1).nonce == 1


def test_wallets_have_separate_nonces(store: SQLStore) -> None:
    first = reserved(store, accepted(store))
    other_sender = reserved(store, accepted(store), sender=OTHER_WALLET)
    other_chain = reserved(store, accepted(store, chain_id=1))

    assert [r.nonce for r in (first, other_sender, other_chain)] == [0, 0, 0]


def test_an_address_without_checksum_is_refused(store: SQLStore) -> None:
    """One wallet must not have two spellings, and so two counts."""
    refund = accepted(store)

    with pytest.raises(ValueError, match="EIP-55"):
        reserved(store, refund, sender=WALLET.lower())
    assert refund == store.get(refund.id)


def test_only_the_queued_version_is_reserved(store: SQLStore) -> None:
    """Not a refund that is reserved, cancelled or unknown."""
    taken, refund = accepted(store), accepted(store)
    first = reserved(store, taken)
    cancelled = moved(store, refund, Status.CANCELLED)

    for each in (taken, refund, queued()):
        with pytest.raises(StaleStateError):
            reserved(store, each)
    assert first == store.get(taken.id)
    assert cancelled == store.get(refund.id)


def test_failed_reservations_leave_no_gap(store: SQLStore) -> None:
    gone = accepted(store)
    moved(store, gone, Status.CANCELLED)
    first = reserved(store, accepted(store))
    with pytest.raises(StaleStateError):
        reserved(store, gone)
    with pytest.raises(StoreError):
        reserved(store, accepted(store), gas_limit=0)
    second = reserved(store, accepted(store))

    assert (first.nonce, second.nonce) == (0, 1)
