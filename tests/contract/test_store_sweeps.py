"""Contract of sweeps: they can only pay the address of the active key."""

from typing import Any

import pytest

from backends.sql import SQLStore
from signer.errors import KeyRotatedError, StaleStateError
from signer.model.key import SIGNING, SigningCondition
from signer.model.refund import SWEEPER, Refund, Status
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    mined,
    moved,
    now,
    opened,
    reserved,
    signed,
)
from tests.support.audit import record
from tests.support.keys import key_at, made_active


THIRD = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"

KEY_ID = key_at(WALLET).key_id


@pytest.fixture(autouse=True)
def _rotated(store: SQLStore) -> None:
    """The first key is a former one, and the second active."""
    opened(store)
    made_active(store, key_at(OTHER_WALLET))


def _accepted(store: SQLStore, recipient: str = OTHER_WALLET) -> Refund:
    return accepted(
        store, client=SWEEPER, payment_session_id=WALLET, recipient=recipient
    )


def _reserved(store: SQLStore, sweep: Refund, **changes: Any) -> Refund:
    given = {"sender": WALLET, "key_id": KEY_ID, "gas_limit": 7, "counted": 0}
    return store.reserve(sweep, **{**given, "at": now(), **changes})


def test_pays_the_active_key(store: SQLStore) -> None:
    """A sweep gets its nonce from the former key's wallet."""
    sweep = _reserved(store, _accepted(store))

    assert (sweep.sender, sweep.nonce, sweep.status) == (WALLET, 0, Status.RESERVED)


@pytest.mark.parametrize("block", [False, True])
def test_pays_no_former_key(store: SQLStore, *, block: bool) -> None:
    """Nor one that was never active; nothing has changed then."""
    late, stray = _accepted(store), _accepted(store, THIRD)
    with pytest.raises(KeyRotatedError):
        _reserved(store, stray)
    made_active(store, key_at(THIRD), block=block)
    with pytest.raises(KeyRotatedError):
        _reserved(store, late)

    assert store.get(late.id) == late
    assert len(store.history(late.id)) == 1
    assert _reserved(store, stray).nonce == 0


def test_empties_no_key_that_is_not_a_former_one(store: SQLStore) -> None:
    """Nor a former one where it is not any more."""
    opened(store, sender=OTHER_WALLET)
    for changes in ({"sender": OTHER_WALLET}, {"sender": THIRD}, {"key_id": "there"}):
        with pytest.raises(StaleStateError):
            _reserved(store, _accepted(store), **changes)


@pytest.mark.parametrize("block", [False, True])
def test_is_announced_for_the_active_key(store: SQLStore, *, block: bool) -> None:
    """An intent to pay an address that is not the active key's is not written."""
    pays = SigningCondition(WALLET, KEY_ID, SIGNING, OTHER_WALLET)
    store.append([record(event="one")], standing=pays)
    made_active(store, key_at(THIRD), block=block)
    with pytest.raises(KeyRotatedError):
        store.append([record(event="two")], standing=pays)
    store.seal()
    events = [each.record.fields["event"] for each in store.sealed(0, 9)]

    assert sorted(events) == ["key-rotate-succeeded", "key-rotate-succeeded", "one"]


def test_is_stranded_with_the_key_that_it_pays(store: SQLStore) -> None:
    """From its signature to its end; a refund to the same address never is."""
    refund = reserved(
        store, accepted(store, recipient=OTHER_WALLET), sender=OTHER_WALLET
    )
    sweep = _reserved(store, _accepted(store))
    found = [store.stranded(THIRD, 9), store.stranded(OTHER_WALLET, 9)]
    sweep = signed(store, sweep)
    found.append(store.stranded(OTHER_WALLET, 9))
    sweep = mined(store, moved(store, sweep, Status.BROADCAST))
    found.append(store.stranded(OTHER_WALLET, 9))
    moved(store, sweep, Status.CONFIRMED)
    found.append(store.stranded(OTHER_WALLET, 9))

    own, both = (refund.id,), (refund.id, sweep.id)
    assert found == [(), own, both, both, own]
