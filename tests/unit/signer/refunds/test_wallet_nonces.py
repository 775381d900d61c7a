"""Which nonces of a wallet are open, and which no refund has."""

import pytest

from signer.model.wallet import Wallet
from signer.refunds.wallet_reconciliation import MOST_OPEN, WalletNonces, read_nonces
from tests.fixtures.ledger import unrecorded
from tests.support.refunds import World


def _wallet(world: World) -> Wallet:
    found = world.store.wallet(world.network.chain_id, world.signer.address)
    assert found is not None
    return found


def test_nonces_of_refunds_are_open_until_they_are_final(world: World) -> None:
    for _ in range(3):
        world.broadcast()

    for chain_nonce in (None, 0, 1, 3):
        found = read_nonces(world.store, _wallet(world), chain_nonce)
        assert found == WalletNonces([0, 1, 2], ())


def test_missing_nonces_are_found(world: World) -> None:
    """Below a nonce that the chain has, and was not made here."""
    world.broadcast()
    other = unrecorded(nonce=3, sender=world.signer.address)
    world.store.add_unrecorded(_wallet(world), [other])
    wallet = _wallet(world)

    assert read_nonces(world.store, wallet, None) == WalletNonces([0], (1, 2))
    assert read_nonces(world.store, wallet, 1) == WalletNonces([0], (1, 2))
    assert read_nonces(world.store, wallet, 4) == WalletNonces([0], ())


def test_a_long_queue_is_no_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first open nonces are read, and no others."""
    monkeypatch.setattr("signer.refunds.wallet_reconciliation.MOST_OPEN", 2)
    for _ in range(4):
        world.broadcast()
    monkeypatch.setattr(world.store, "unknown_nonces", None)

    assert read_nonces(world.store, _wallet(world), 0) == WalletNonces([0, 1], ())
    assert MOST_OPEN > 100
