"""The refund path on real chains: anvil, and eth-tester with py-evm."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from signer.config.networks import Network
from signer.model.refund import Refund, Status
from signer.ports.ledger import Ledger
from tests.fixtures.chain import DevChain
from tests.support.refunds import AMOUNT, CUSTOMER, World
from tests.support.waiting import eventually


FUNDS = 1_000 * 10**6


class System(World):
    """Service and worker over one real chain."""

    def __init__(self, store: Ledger, dev: DevChain, client: JSONRPCChain) -> None:
        network = Network.model_validate(
            {
                "chain_id": client.chain_id(),
                "rpc_urls": [dev.url],
                "confirmations": 1,
                "tokens": {
                    "TUSD": {"address": dev.token, "decimals": 6, "max_amount": "1000"}
                },
            }
        )
        super().__init__(store, client=client, network=network)
        self._dev = dev

    def finished(self, refund: Refund) -> Refund:
        """Work until the refund is final."""

        def is_final() -> bool:
            self.work(after=timedelta(seconds=1))
            return self.stored(refund).status.is_final

        assert eventually(is_final, 20)
        return self.stored(refund)

    def held(self, address: str) -> int:
        """Return the token balance of *address*."""
        return coin.balance_of(self._dev.url, self._dev.token, address)


@pytest.fixture
def system(
    empty: Callable[[], Ledger], dev_chain: DevChain, chain: JSONRPCChain
) -> System:
    """The refund path on each chain in turn, with a funded wallet."""
    system = System(empty(), dev_chain, chain)
    wallet = system.signer.address
    coin.fund(dev_chain.url, wallet, token=dev_chain.token, amount=FUNDS)
    return system


def test_a_refund_is_paid_on_chain(system: System) -> None:
    """The customer has the amount; a repeated request pays nothing."""
    before = system.held(CUSTOMER)

    refund = system.finished(system.submit().refund)
    again = system.submit().refund

    assert refund.status is Status.CONFIRMED
    assert refund.nonce == 0
    assert again == refund
    assert system.held(CUSTOMER) - before == AMOUNT
    assert system.held(system.signer.address) == FUNDS - AMOUNT


def test_a_lost_ledger_does_not_pay_twice(
    system: System,
    empty: Callable[[], Ledger],
    dev_chain: DevChain,
    chain: JSONRPCChain,
) -> None:
    """A new ledger finds the refund's mark in a real block (R24)."""
    paid = system.finished(system.submit().refund)
    restored = System(empty(), dev_chain, chain)

    waiting = restored.submit().refund
    restored.state_marks()
    adopted = restored.finished(waiting)

    assert (waiting.status, waiting.moving.blocked_by) == (
        Status.QUEUED,
        "wallet-paused",
    )
    assert waiting.id != paid.id
    assert (adopted.status, adopted.tx_hash, adopted.nonce) == (
        Status.CONFIRMED,
        paid.tx_hash,
        0,
    )
    assert system.held(system.signer.address) == FUNDS - AMOUNT
