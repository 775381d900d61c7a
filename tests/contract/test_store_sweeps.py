"""Contract of sweeps: they can only pay the address of the active key."""

from typing import Any

import pytest

from backends.sql import SQLStore
from signer.errors import KeyRotatedError, StaleStateError
from signer.model.key import SIGNING, SigningCondition
from signer.model.refund import Refund, Status
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    bound,
    mined,
    moved,
    now,
    opened,
    reserve,
    reserved,
    signed,
)
from tests.support.audit import record
from tests.support.keys import key_at, made_active
from tests.support.ledgers import seal


THIRD = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"

KEY_ID = key_at(WALLET).key_id


@pytest.fixture(autouse=True)
def _rotated(store: SQLStore) -> None:
    """The first key is a former one, and the second active."""
    opened(store)
    made_active(store, key_at(OTHER_WALLET))


def _accepted(store: SQLStore, recipient: str = OTHER_WALLET) -> Refund:
    return accepted(store, **bound(), recipient=recipient)


def _reserved(store: SQLStore, sweep: Refund, **changes: Any) -> Refund:
    given = {"sender": WALLET, "key_id": KEY_ID, "gas_limit": 7, "counted": 0}
    return reserve(store, sweep, **{**given, "at": now(), **changes})


def test_a_sweep_may_pay_the_active_key(store: SQLStore) -> None:
    """A sweep gets its nonce from the former key's wallet."""
    sweep = _reserved(store, _accepted(store))

    assert (sweep.sender, sweep.nonce, sweep.status) == (WALLET, 0, Status.RESERVED)


@pytest.mark.parametrize("block", [False, True])
def test_a_sweep_may_pay_no_other_key(store: SQLStore, *, block: bool) -> None:
    """Neither a former key nor one that was never active."""
    late, stray = _accepted(store), _accepted(store, THIRD)
    with pytest.raises(KeyRotatedError):
        _reserved(store, stray)
    made_active(store, key_at(THIRD), block=block)
    with pytest.raises(KeyRotatedError):
        _reserved(store, late)

    assert store.get(late.id) == late
    assert len(store.history(late.id)) == 1
    assert _reserved(store, stray).nonce == 0


def test_only_former_keys_are_swept(store: SQLStore) -> None:
    opened(store, sender=OTHER_WALLET)
    for changes in ({"sender": OTHER_WALLET}, {"sender": THIRD}, {"key_id": "there"}):
        with pytest.raises(StaleStateError):
            _reserved(store, _accepted(store), **changes)


@pytest.mark.parametrize("block", [False, True])
def test_an_intent_to_sweep_needs_the_active_key(
    store: SQLStore, *, block: bool
) -> None:
    """An intent to pay another address is refused."""
    pays = SigningCondition(WALLET, KEY_ID, SIGNING, OTHER_WALLET)
    store.append([record(event="one")], condition=pays)
    made_active(store, key_at(THIRD), block=block)
    with pytest.raises(KeyRotatedError):
        store.append([record(event="two")], condition=pays)
    seal(store)
    events = [each.record.fields["event"] for each in store.sealed(0, 9)]

    assert sorted(events) == ["key-rotate-succeeded", "key-rotate-succeeded", "one"]


def test_a_sweep_is_stranded_while_it_is_open(store: SQLStore) -> None:
    """From its signature until it is confirmed, if its key is no longer active."""
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
