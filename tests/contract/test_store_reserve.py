"""What every store promises of ``reserve``: nonces without gap or double."""

import pytest

from backends.sql import SQLStore
from signer.errors import StaleStateError, StoreError
from signer.refunds.refund import Status
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    moved,
    now,
    queued,
    reserved,
)


def test_sets_the_reservation(store: SQLStore) -> None:
    """The reserved refund carries what was given, and is what the store has."""
    refund = accepted(store)
    at = now()
    after = store.reserve(
        refund, sender=WALLET, key_id="k", gas_limit=7, floor=3, at=at
    )

    assert after == refund.moved(
        Status.RESERVED, at, sender=WALLET, key_id="k", gas_limit=7, nonce=3
    )
    assert after == store.get(refund.id)


def test_counts_on(store: SQLStore) -> None:
    """Each nonce is one past the highest, though the chain still counts less."""
    nonces = [reserved(store, accepted(store), floor=5).nonce for _ in range(4)]

    assert nonces == [5, 6, 7, 8]


def test_follows_the_chain(store: SQLStore) -> None:
    """A floor above the highest nonce is the next one; a lower one does nothing."""
    nonces = [
        reserved(store, accepted(store), floor=floor).nonce for floor in (0, 9, 2)
    ]

    assert nonces == [0, 9, 10]


def test_wallets_do_not_meet(store: SQLStore) -> None:
    """Each chain and each sender counts for itself."""
    first = reserved(store, accepted(store))
    other_sender = reserved(store, accepted(store), sender=OTHER_WALLET)
    other_chain = reserved(store, accepted(store, chain_id=1))

    assert [r.nonce for r in (first, other_sender, other_chain)] == [0, 0, 0]


def test_spelling_of_a_wallet(store: SQLStore) -> None:
    """One wallet cannot count twice under two spellings of its address."""
    refund = accepted(store)

    with pytest.raises(ValueError, match="EIP-55"):
        reserved(store, refund, sender=WALLET.lower())
    assert refund == store.get(refund.id)


def test_only_once(store: SQLStore) -> None:
    """One refund gets one nonce; the second to ask is told that it moved."""
    refund = accepted(store)
    first = reserved(store, refund)

    with pytest.raises(StaleStateError):
        reserved(store, refund)
    assert first == store.get(refund.id)


def test_cancelled_meanwhile(store: SQLStore) -> None:
    """A refund that was cancelled under way gets no nonce."""
    refund = accepted(store)
    cancelled = moved(store, refund, Status.CANCELLED)

    with pytest.raises(StaleStateError):
        reserved(store, refund)
    assert cancelled == store.get(refund.id)


def test_failures_leave_no_gap(store: SQLStore) -> None:
    """A reservation that fails, for whatever reason, uses no nonce up."""
    gone = accepted(store)
    moved(store, gone, Status.CANCELLED)
    first = reserved(store, accepted(store))
    with pytest.raises(StaleStateError):
        reserved(store, gone)
    with pytest.raises(StoreError):
        reserved(store, accepted(store), gas_limit=0)
    second = reserved(store, accepted(store))

    assert (first.nonce, second.nonce) == (0, 1)


def test_unknown_refund(store: SQLStore) -> None:
    """What was never accepted cannot be reserved."""
    with pytest.raises(StaleStateError):
        reserved(store, queued())
