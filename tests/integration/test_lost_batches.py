"""A ledger that lost a batch of a real vault pays nothing twice; the books agree."""

from pathlib import Path
from typing import cast

import pytest

from backends.sql import SQLStore
from dev import stablecoin as coin
from signer.model.refund import COIN_ADDRESS, Refund, Status
from tests.fixtures.chain import DevChain
from tests.integration.test_batches import FUNDS, Shop, _address
from tests.support.ledgers import copy_ledger, open_ledger


TOKEN = 1_000_000

PAYEES, BLOCKED = 6, 2


@pytest.fixture
def shop(fresh_anvil: DevChain, sqlite_store: SQLStore) -> Shop:
    """Return a service whose network has a vault, on a chain that mines at once."""
    return Shop(fresh_anvil, sqlite_store)


def _requested(shop: Shop, numbers: range) -> list[Refund]:
    return [
        shop.world.accepted(
            recipient=_address(number), amount="1", reference=f"order-{number}"
        )
        for number in numbers
    ]


def _lose(shop: Shop, copy: Path, known: int) -> list[Refund]:
    """
    Return the refunds of a lost batch, of which the ledger in *copy* knows some.

    The gateway has requested the others again.  One payee was blocked.
    """
    world = shop.world
    _requested(shop, range(known))
    source = cast("SQLStore", world.store)._database.path
    assert source is not None
    copy_ledger(Path(source), copy)
    _requested(shop, range(known, PAYEES))
    shop.dev.rpc("evm_setAutomine", False)
    shop.work(passes=1)
    issuer = coin.issuer(shop.dev.url)
    shop.overtake(issuer, shop.dev.token, shop.blocking(BLOCKED))
    shop.work()
    world.store = open_ledger(f"sqlite:///{copy}")
    assert world.ring
    requested = _requested(shop, range(known, PAYEES))
    known_rows = [
        world.store.find_reference("gateway", f"order-{n}") for n in range(known)
    ]
    return [*(each for each in known_rows if each is not None), *requested]


@pytest.mark.parametrize("known", [0, 3, PAYEES])
def test_a_lost_batch_of_a_real_vault_is_recognised(
    shop: Shop, tmp_path: Path, known: int
) -> None:
    """By its marks, item by item: the payee that the token refused gets nothing."""
    world = shop.world
    refunds = _lose(shop, tmp_path / "copy.db", known)
    wallet = "local", world.signer.address
    world.wallets.reconcile_former(world.chains["local"], wallet[1])
    world.restore(stated={wallet: 1}, has_log=False)

    shop.work()
    ended = shop.stored(refunds)

    statuses = [Status.CONFIRMED] * PAYEES
    statuses[BLOCKED] = Status.FAILED
    assert [each.status for each in ended] == statuses
    assert ended[BLOCKED].failure_code == "reverted"
    assert {each.nonce for each in ended} == {0}
    received = [TOKEN] * PAYEES
    received[BLOCKED] = 0
    assert [shop.received(number) for number in range(PAYEES)] == received
    assert not world.wallet.is_paused
    differences, _ = shop.books()
    assert differences == []


def test_the_books_of_a_batch(shop: Shop) -> None:
    """The vault pays, the wallet has the fee of one transaction, and all adds up."""
    refunds = shop.sent(["1"] * 4)
    issuer_call = shop.blocking(1)
    shop.overtake(coin.issuer(shop.dev.url), shop.dev.token, issuer_call)
    shop.work()
    paid = [each for each in shop.stored(refunds) if each.status is Status.CONFIRMED]

    differences, result = shop.books()

    assert len(paid) == 3
    assert differences == []
    accounts = {(each.wallet, each.asset): each for each in result.accounts}
    vault = accounts[shop.vault.address, shop.dev.token]
    assert (vault.received, vault.refunds) == (FUNDS, 3 * TOKEN)
    assert vault.closing == FUNDS - 3 * TOKEN
    fees = accounts[shop.world.signer.address, COIN_ADDRESS].fees
    receipt = shop.dev.rpc("eth_getTransactionReceipt", str(paid[0].tx_hash))
    assert fees == int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)


def test_what_the_guardian_withdraws_is_named(shop: Shop) -> None:
    shop.vault.call(
        shop.vault.guardian, "withdraw(address,uint256)", shop.dev.token, TOKEN
    )

    differences, _ = shop.books()

    assert [str(each.code) for each in differences] == ["vault-withdrawal"]
