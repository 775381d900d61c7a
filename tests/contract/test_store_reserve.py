"""Contract of ``Store.reserve``: no gap in the nonces, and no nonce twice."""

import pytest

from backends.sql import SQLStore
from signer.errors import StaleStateError, StoreError
from signer.model.refund import Status
from signer.model.wallet import Pause
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    moved,
    now,
    opened,
    queued,
    reserved,
    sighting,
)
from tests.support.keys import key_at, made_active


KEY_ID = key_at(WALLET).key_id


def test_sets_the_reservation(store: SQLStore) -> None:
    """The returned refund has the given values and equals the stored one."""
    opened(store, first=3)
    refund = accepted(store)
    at = now()
    after = store.reserve(
        refund, sender=WALLET, key_id=KEY_ID, gas_limit=7, counted=3, at=at
    )

    assert after == refund.with_status(
        Status.RESERVED, at, sender=WALLET, key_id=KEY_ID, gas_limit=7, nonce=3
    )
    assert after == store.get(refund.id)


def test_counts_on(store: SQLStore) -> None:
    """Each nonce is one past the highest, though the chain still counts less."""
    opened(store, first=5)
    nonces = [reserved(store, accepted(store)).nonce for _ in range(4)]

    assert nonces == [5, 6, 7, 8]


def test_never_skips_to_the_chain(store: SQLStore) -> None:
    """When the chain counts further than the ledger, nothing is given out."""
    refund = reserved(store, accepted(store), counted=0)
    assert refund.nonce == 0
    refund = accepted(store)

    with pytest.raises(StaleStateError):
        reserved(store, refund, counted=2)
    assert refund == store.get(refund.id)
    assert reserved(store, refund, counted=1).nonce == 1


def test_counts_past_sightings(store: SQLStore) -> None:
    """The nonce of an unrecorded transaction counts as used."""
    wallet = opened(store)
    assert reserved(store, accepted(store)).nonce == 0
    store.add_unrecorded(wallet, [sighting(nonce=1), sighting(nonce=2, mark=b"m" * 16)])

    assert reserved(store, accepted(store), counted=3).nonce == 3
    assert reserved(store, accepted(store), counted=3).nonce == 4


def test_a_wallet_must_be_opened(store: SQLStore) -> None:
    """A nonce of a wallet that was never opened cannot be reserved."""
    made_active(store, key_at(WALLET))
    refund = accepted(store)

    with pytest.raises(StaleStateError):
        store.reserve(
            refund, sender=WALLET, key_id=KEY_ID, gas_limit=7, counted=0, at=now()
        )
    assert refund == store.get(refund.id)


def test_paused_wallets_give_nothing(store: SQLStore) -> None:
    """A paused wallet gives no nonce, another does, and so does the first later."""
    store.pause(opened(store), Pause.CHAIN_AHEAD, now())
    refund, other = accepted(store), accepted(store)

    with pytest.raises(StaleStateError):
        reserved(store, refund)
    assert refund == store.get(refund.id)
    assert reserved(store, other, sender=OTHER_WALLET).nonce == 0
    store.resume(opened(store), now())
    assert reserved(store, refund).nonce == 0


def test_what_was_paid_gets_no_nonce(store: SQLStore) -> None:
    """A refund whose mark is recorded counts as paid; other marks do not matter."""
    paid, other = accepted(store), accepted(store)
    store.add_unrecorded(opened(store), [sighting(mark=paid.mark)])

    with pytest.raises(StaleStateError):
        reserved(store, paid, counted=1)
    assert paid == store.get(paid.id)
    assert reserved(store, other, counted=1).nonce == 1


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
    """A refund gets one nonce; a second reservation fails."""
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
    """A refund that was never accepted cannot be reserved."""
    with pytest.raises(StaleStateError):
        reserved(store, queued())
