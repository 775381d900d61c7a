"""The refund path on real chains: anvil, and eth-tester with py-evm."""

import time
from datetime import UTC, datetime

import pytest

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from signer.networks import Network
from signer.ports import Store
from signer.refunds.lifecycle import Chain, Lifecycle
from signer.refunds.refund import Refund, Status
from signer.refunds.service import RefundService
from signer.refunds.worker import Worker
from tests.fixtures.chain import DevChain
from tests.support.refunds import CUSTOMER, REQUEST, signer


FUNDS = 1_000 * 10**6


class System:
    """Service and worker over one real chain, whose wallet is funded."""

    def __init__(self, store: Store, dev: DevChain, client: JSONRPCChain) -> None:
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
        wallet = signer()
        lifecycle = Lifecycle(
            store, {"local": Chain(network, client)}, wallet, lambda: datetime.now(UTC)
        )
        self._dev = dev
        self._store = store
        self.wallet = wallet.address
        self.worker = Worker(store, lifecycle, lambda: datetime.now(UTC))
        self.service = RefundService(
            store,
            {"local": network},
            lifecycle,
            wallet=self.wallet,
            clock=lambda: datetime.now(UTC),
        )
        coin.fund(dev.url, self.wallet, token=dev.token, amount=FUNDS)

    def submit(self) -> Refund:
        """Ask for the one refund of these tests."""
        refund, _ = self.service.submit(
            client="gateway",
            idempotency_key="key-1",
            request=REQUEST,
            request_id="req-1",
        )
        return refund

    def finished(self, refund: Refund) -> Refund:
        """Work until the refund is final, 20 s at most."""
        deadline = time.monotonic() + 20
        while not refund.status.is_final and time.monotonic() < deadline:
            self.worker.work()
            refund = self.service.get("gateway", refund.id)
            time.sleep(0.01)
        return refund

    def held(self, address: str) -> int:
        """Return the coins of *address*, as the node tells them."""
        return coin.balance_of(self._dev.url, self._dev.token, address)


@pytest.fixture
def system(sqlite_store: Store, dev_chain: DevChain, chain: JSONRPCChain) -> System:
    """The refund path on each chain in turn."""
    return System(sqlite_store, dev_chain, chain)


def test_a_refund_is_paid_on_chain(system: System) -> None:
    """The customer has the amount, the wallet the rest; asking again pays nothing."""
    before = system.held(CUSTOMER)

    refund = system.finished(system.submit())
    again = system.submit()

    assert refund.status is Status.CONFIRMED
    assert refund.nonce == 0
    assert again == refund
    assert system.held(CUSTOMER) - before == 12_500_000
    assert system.held(system.wallet) == FUNDS - 12_500_000


def test_a_transfer_that_would_revert_is_refused(
    system: System, dev_chain: DevChain
) -> None:
    """A paused token costs neither gas nor a nonce, and its reason is kept."""
    coin.administer(dev_chain.url, dev_chain.token, "setPaused(bool)", True)

    refund = system.submit()

    assert refund.status is Status.REFUSED
    assert refund.failure_code == "execution-reverted"
    assert refund.nonce is None
    assert system.held(system.wallet) == FUNDS
