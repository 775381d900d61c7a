"""
Refunds in tokens that misbehave: a real chain, a real ledger, and a key in SoftHSM.

A refund is paid if, and only if, the token's Transfer event says so.  All others end
with a reason, and the queue behind them moves on.
"""

import time
from datetime import UTC, datetime

import pytest

from backends.json_rpc import JSONRPCChain
from backends.pkcs11 import PKCS11Backend
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from dev.stablecoin import Behaviour
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.keys.signer import Signer
from signer.model.audit_record import Actor
from signer.model.refund import IN_FLIGHT, Refund, RefundRequest, Status
from signer.ports import KeyId, Ledger
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonces import NonceManager
from signer.refunds.policy import admit
from signer.refunds.transaction_signer import TransactionSigner
from tests.fixtures.chain import DevChain
from tests.support.devices import recording
from tests.support.keys import ring_over


CUSTOMER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
AMOUNT = 1_000_000
FUNDS = 100 * AMOUNT

# Estimated well: what the events prove is paid, and the rest is not.
PAID = (Behaviour.GOOD, Behaviour.RETURNS_NOTHING, Behaviour.CHARGES_SENDER)
UNPAID = (
    Behaviour.RETURNS_FALSE,
    Behaviour.CHARGES_RECIPIENT,
    Behaviour.REPEATS_EVENT,
    Behaviour.OVERSTATES_EVENT,
    Behaviour.SAYS_NOTHING,
)
REVERTING = {
    Behaviour.REVERTS_WITH_REASON: "WeirdUSD: not today",
    Behaviour.REVERTS_WITH_ERROR: "custom error 0x",
    Behaviour.REVERTS_SILENTLY: "gave no reason",
    Behaviour.PANICS: "panic 0x01",
}


class Shop:
    """Takes refunds in TUSD and WUSD step by step, as the worker does."""

    def __init__(
        self, dev: DevChain, store: Ledger, signer: Signer, weird: str
    ) -> None:
        self.url, self.weird, self.good = dev.url, weird, dev.token
        self._network = Network.model_validate(
            {
                "chain_id": CHAIN_ID,
                "rpc_urls": [dev.url],
                "confirmations": 1,
                "tokens": {
                    "TUSD": {"address": dev.token, "decimals": 6, "max_amount": "9"},
                    "WUSD": {"address": weird, "decimals": 6, "max_amount": "9"},
                },
            }
        )
        client = JSONRPCChain([dev.url], timeout=10, chain_id=CHAIN_ID)
        self._store = store
        self._wallet = signer.address
        chains = {"local": Chain(self._network, client)}
        ring = ring_over(store, signer)
        nonces = NonceManager(store, ring, _now)
        self._lifecycle = Lifecycle(
            store, chains, TransactionSigner(ring, _now), nonces, _now
        )
        self._tracker = ConfirmationTracker(store, chains, _now)
        for token in (dev.token, weird):
            coin.fund(dev.url, signer.address, token=token, amount=FUNDS)
        self._count = 0

    def accepted(self, token: str) -> Refund:
        """Return a new refund of *token*."""
        self._count += 1
        admitted = admit(
            RefundRequest(
                "session", f"ref-{self._count}", "local", token, CUSTOMER, "1"
            ),
            refund_id=f"rf_{self._count:04}",
            client="gateway",
            idempotency_key=f"key-{self._count}",
            networks={"local": self._network},
            wallets=[self._wallet],
            now=_now(),
        )
        refund, created = self._store.accept(admitted)
        assert created
        return refund

    def step(self, refund: Refund) -> Refund:
        """Take one step, or track once."""
        if refund.status not in IN_FLIGHT:
            return self._lifecycle.step(refund, Actor("worker"))
        self._tracker.track()
        return self._store.get(refund.id) or refund

    def until(self, refund: Refund, status: Status) -> Refund:
        """Take steps until the refund has *status*."""
        deadline = time.monotonic() + 20
        while refund.status is not status and time.monotonic() < deadline:
            assert not refund.status.is_final, refund
            refund = self.step(refund)
        return refund

    def finished(self, refund: Refund) -> Refund:
        """Take steps until the refund is final."""
        deadline = time.monotonic() + 20
        while not refund.status.is_final and time.monotonic() < deadline:
            refund = self.step(refund)
        stored = self._store.get(refund.id)
        assert stored == refund
        return refund

    def received(self, token: str) -> int:
        """Return how much of *token* the customer has."""
        return coin.balance_of(self.url, token, CUSTOMER)


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def shop(
    fresh_anvil: DevChain,
    sqlite_store: Ledger,
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
) -> Shop:
    """A shop whose wallet is in a SoftHSM token and holds both tokens."""
    signer = Signer.open(softhsm, softhsm_key, recording()[0])
    return Shop(
        fresh_anvil, sqlite_store, signer, coin.deploy(fresh_anvil.url, "WeirdUSD")
    )


def assert_next_refund_is_paid(shop: Shop, nonce: int) -> None:
    """Pay the next refund, in a good token, with the next nonce."""
    following = shop.finished(shop.accepted("TUSD"))

    assert following.status is Status.CONFIRMED
    assert following.nonce == nonce
    assert shop.received(shop.good) == AMOUNT


@pytest.mark.parametrize("behaviour", PAID, ids=lambda behaviour: behaviour.name)
def test_a_refund_with_an_exact_event_is_confirmed(
    shop: Shop, behaviour: Behaviour
) -> None:
    """A token may return nothing or charge the payer: the event decides (R22)."""
    coin.behave(shop.url, shop.weird, behaviour)

    refund = shop.finished(shop.accepted("WUSD"))

    assert refund.status is Status.CONFIRMED
    assert shop.received(shop.weird) == AMOUNT
    assert_next_refund_is_paid(shop, nonce=1)


@pytest.mark.parametrize("behaviour", UNPAID, ids=lambda behaviour: behaviour.name)
def test_a_refund_without_an_exact_event_fails(
    shop: Shop, behaviour: Behaviour
) -> None:
    """It is mined and succeeds, but its Transfer event is missing or differs (R21)."""
    coin.behave(shop.url, shop.weird, behaviour)

    refund = shop.finished(shop.accepted("WUSD"))

    assert refund.status is Status.FAILED
    assert refund.failure_code == "transfer-mismatch"
    assert refund.failure_detail
    assert_next_refund_is_paid(shop, nonce=1)


@pytest.mark.parametrize("behaviour", REVERTING, ids=lambda behaviour: behaviour.name)
def test_a_transfer_that_would_revert_gets_no_nonce(
    shop: Shop, behaviour: Behaviour
) -> None:
    """It costs neither gas nor a nonce, and the token's revert reason is stored."""
    coin.behave(shop.url, shop.weird, behaviour)

    refund = shop.finished(shop.accepted("WUSD"))

    assert refund.status is Status.REFUSED
    assert refund.nonce is None
    assert REVERTING[behaviour] in str(refund.failure_detail)
    assert shop.received(shop.weird) == 0
    assert_next_refund_is_paid(shop, nonce=0)


@pytest.mark.parametrize("behaviour", REVERTING, ids=lambda behaviour: behaviour.name)
def test_a_transfer_that_reverts_once_it_is_signed_fails(
    shop: Shop, behaviour: Behaviour
) -> None:
    """The nonce is used, and the refund is not paid (R20)."""
    refund = shop.until(shop.accepted("WUSD"), Status.SIGNED)
    coin.behave(shop.url, shop.weird, behaviour)

    refund = shop.finished(refund)

    assert refund.status is Status.FAILED
    assert refund.failure_code == "reverted"
    assert shop.received(shop.weird) == 0
    assert_next_refund_is_paid(shop, nonce=1)


@pytest.mark.parametrize(
    ("signature", "arguments", "words"),
    [
        ("setPaused(bool)", (True,), "TestUSD: paused"),
        ("setBlocked(address,bool)", (CUSTOMER, True), "custom error 0x"),
    ],
    ids=["paused", "blocked"],
)
def test_a_paused_or_blocking_token_refuses_the_refund(
    shop: Shop, signature: str, arguments: tuple[object, ...], words: str
) -> None:
    """The simulation shows it before a nonce is assigned (R14)."""
    coin.administer(shop.url, shop.good, signature, *arguments)

    refund = shop.finished(shop.accepted("TUSD"))

    assert refund.status is Status.REFUSED
    assert words in str(refund.failure_detail)
    assert shop.finished(shop.accepted("WUSD")).nonce == 0


@pytest.mark.parametrize(
    ("signature", "arguments"),
    [
        ("setPaused(bool)", (True,)),
        ("setBlocked(address,bool)", (CUSTOMER, True)),
    ],
    ids=["paused", "blocked"],
)
def test_a_token_that_is_paused_after_signing_fails_the_refund(
    shop: Shop, signature: str, arguments: tuple[object, ...]
) -> None:
    """The transfer reverts, so the refund fails and is not paid."""
    refund = shop.until(shop.accepted("TUSD"), Status.SIGNED)
    coin.administer(shop.url, shop.good, signature, *arguments)

    refund = shop.finished(refund)

    assert refund.status is Status.FAILED
    assert shop.received(shop.good) == 0
    following = shop.finished(shop.accepted("WUSD"))
    assert (following.status, following.nonce) == (Status.CONFIRMED, 1)
