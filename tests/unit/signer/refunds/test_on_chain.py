"""The refund path on real chains: anvil, and eth-tester with py-evm."""

import time
from collections.abc import Callable

import pytest
from eth_account import Account

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.keys.retirement import KeyRetirement
from signer.model.refund import Refund, Status
from signer.ports import Ledger, utc_now
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonces import NonceManager
from signer.refunds.service import RefundService
from signer.refunds.transaction_signer import TransactionSigner
from signer.refunds.wallet_repair import RepairResult, repair_wallets
from signer.refunds.worker import Worker
from tests.fixtures.chain import DevChain
from tests.support.devices import recording
from tests.support.keys import ring_over
from tests.support.payments import NOBODY, hash_of, mined, signed
from tests.support.refunds import AMOUNT, CUSTOMER, KEY, REQUEST, signer


FUNDS = 1_000 * 10**6


class System:
    """Service and worker over one real chain, with a funded wallet."""

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
        key = signer()
        self._dev = dev
        self._client = client
        self._store = store
        self._chains = chains = {"local": Chain(network, client)}
        self.wallet = key.address
        ring = ring_over(store, key)
        nonces = NonceManager(store, ring, utc_now)
        transaction_signer = TransactionSigner(ring, utc_now)
        lifecycle = Lifecycle(store, chains, transaction_signer, nonces, utc_now)
        self.worker = Worker(
            store,
            lifecycle,
            confirmation_tracker=ConfirmationTracker(store, chains, utc_now),
            wallets=nonces.wallets,
            ring=ring,
            retirement=KeyRetirement(store, recording()[0], utc_now),
            chains=chains,
            clock=utc_now,
        )
        self.service = RefundService(
            store,
            {"local": network},
            lifecycle,
            wallets=lambda: [self.wallet],
            clock=utc_now,
        )

    def submit(self) -> Refund:
        """Submit the one refund of these tests, and store its answer."""
        submission = self.service.submit(
            client="gateway",
            idempotency_key="key-1",
            request=REQUEST,
            request_id="req-1",
        )
        self.service.remember_answer(submission.refund, "answer")
        return submission.refund

    def finished(self, refund: Refund) -> Refund:
        """Work until the refund is final, 20 s at most."""
        deadline = time.monotonic() + 20
        while not refund.status.is_final and time.monotonic() < deadline:
            self.worker.work()
            refund = self.service.get("gateway", refund.id)
            time.sleep(0.01)
        return refund

    def use_the_key_elsewhere(self, nonce: int) -> str:
        """Send one wei with the wallet's key, like a thief; return the hash."""
        raw = signed(
            Account.from_key(KEY.secret),
            nonce=nonce,
            chainId=self._client.chain_id(),
            value=1,
            to=NOBODY,
        )
        self._client.broadcast(raw)
        mined(self._client, raw)
        return hash_of(raw)

    def repaired(self) -> list[RepairResult]:
        """Resume the wallets that can be resumed."""
        return list(repair_wallets(self._store, self._chains, utc_now, apply=True))

    def held(self, address: str) -> int:
        """Return the token balance of *address*."""
        return coin.balance_of(self._dev.url, self._dev.token, address)


@pytest.fixture
def system(
    empty: Callable[[], Ledger], dev_chain: DevChain, chain: JSONRPCChain
) -> System:
    """The refund path on each chain in turn."""
    system = System(empty(), dev_chain, chain)
    coin.fund(dev_chain.url, system.wallet, token=dev_chain.token, amount=FUNDS)
    return system


def test_a_refund_is_paid_on_chain(system: System) -> None:
    """
    The customer has the amount, the wallet the rest; a repeated request pays nothing.
    """
    before = system.held(CUSTOMER)

    refund = system.finished(system.submit())
    again = system.submit()

    assert refund.status is Status.CONFIRMED
    assert refund.nonce == 0
    assert again == refund
    assert system.held(CUSTOMER) - before == AMOUNT
    assert system.held(system.wallet) == FUNDS - AMOUNT


def test_a_transfer_that_would_revert_is_refused(
    system: System, dev_chain: DevChain
) -> None:
    """A paused token costs neither gas nor a nonce, and its reason is stored."""
    coin.administer(dev_chain.url, dev_chain.token, "setPaused(bool)", True)

    refund = system.submit()

    assert refund.status is Status.REFUSED
    assert refund.failure_code == "execution-reverted"
    assert refund.nonce is None
    assert system.held(system.wallet) == FUNDS


def test_a_lost_ledger_does_not_pay_twice(
    system: System,
    empty: Callable[[], Ledger],
    dev_chain: DevChain,
    chain: JSONRPCChain,
) -> None:
    """The mark in a real block tells a new ledger that the refund was paid (R24)."""
    paid = system.finished(system.submit())
    restored = System(empty(), dev_chain, chain)

    waiting = restored.submit()
    adopted = restored.finished(waiting)

    assert (waiting.status, waiting.blocked_by) == (Status.QUEUED, "wallet-paused")
    assert waiting.id != paid.id
    assert (adopted.status, adopted.tx_hash, adopted.nonce) == (
        Status.CONFIRMED,
        paid.tx_hash,
        0,
    )
    assert system.held(system.wallet) == FUNDS - AMOUNT


def test_a_foreign_transaction_pauses_the_wallet(system: System) -> None:
    """It is found in its block, and an operator resumes the wallet (R23)."""
    stolen = system.use_the_key_elsewhere(0)
    waiting = system.submit()
    system.worker.work()

    (found,) = system.repaired()
    confirmed = system.finished(waiting)

    assert (waiting.status, waiting.blocked_by) == (Status.QUEUED, "wallet-paused")
    assert found.resumed
    assert (confirmed.status, confirmed.nonce) == (Status.CONFIRMED, 1)
    assert confirmed.tx_hash != stolen
    assert system.held(system.wallet) == FUNDS - AMOUNT
