"""
Refunds in tokens that misbehave: a real chain, a real ledger, and a key in SoftHSM.

A refund is confirmed only if the token's Transfer event proves the payment.  Others end
with a reason, and the next refund is paid.
"""

import time

import pytest

from backends.json_rpc import JSONRPCChain
from backends.pkcs11 import PKCS11Backend
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from dev.stablecoin import Behaviour
from signer.config.networks import Network
from signer.keys.signer import Signer
from signer.model.refund import IN_FLIGHT, Refund, Status
from signer.ports.key_backend import KeyId
from signer.ports.ledger import Ledger
from signer.refunds.worker import Worker
from tests.fixtures.chain import DevChain
from tests.support.devices import recording
from tests.support.refunds import CUSTOMER, World


AMOUNT = 1_000_000
FUNDS = 100 * AMOUNT

# The simulated transfer succeeds; the Transfer event decides what is paid.
# ``tests/contract/test_weird_tokens.py`` has all behaviours.
PAID = (Behaviour.RETURNS_NOTHING, Behaviour.CHARGES_SENDER)
UNPAID = (Behaviour.RETURNS_FALSE, Behaviour.OVERSTATES_EVENT)
REVERTING = {
    Behaviour.REVERTS_WITH_REASON: "WeirdUSD: not today",
    Behaviour.PANICS: "panic 0x01",
}


# How TestUSD's issuer prevents a transfer, and the reason that the simulation shows.
PREVENTIONS = {
    "paused": ("setPaused(bool)", (True,), "TestUSD: paused"),
    "blocked": ("setBlocked(address,bool)", (CUSTOMER, True), "custom error 0x"),
}


class Shop:
    """Takes refunds in TUSD and WUSD step by step, as the worker does."""

    def __init__(
        self, dev: DevChain, store: Ledger, signer: Signer, weird: str
    ) -> None:
        self.url, self.weird, self.good = dev.url, weird, dev.token
        network = Network.model_validate(
            {
                "chain_id": CHAIN_ID,
                "rpc_urls": [dev.url],
                "confirmations": 1,
                "tokens": {
                    name: {"address": address, "decimals": 6, "max_amount": "9"}
                    for name, address in (("TUSD", dev.token), ("WUSD", weird))
                },
            }
        )
        client = JSONRPCChain([dev.url], timeout=10, chain_id=CHAIN_ID)
        self._world = World(store, client=client, signer=signer, network=network)
        for token in (dev.token, weird):
            coin.fund(dev.url, signer.address, token=token, amount=FUNDS)

    def accepted(self, token: str) -> Refund:
        """Return a new refund of *token*."""
        return self._world.accepted(token=token, amount="1")

    def signed(self, token: str) -> Refund:
        """Return a refund of *token* that is signed."""
        refund = self._world.step(self.accepted(token), times=2)
        assert refund.status is Status.SIGNED
        return refund

    @property
    def worker(self) -> Worker:
        """A worker that keeps what it has read."""
        return self._world.worker

    def gas_limit(self, refund: Refund) -> int:
        """Return the gas limit that was signed for *refund*."""
        return self._world.sent(self._world.stored(refund)).gas_limit

    def finished(self, refund: Refund) -> Refund:
        """Take steps until the refund is final."""
        refund = self._world.stored(refund)
        deadline = time.monotonic() + 20
        while not refund.status.is_final and time.monotonic() < deadline:
            if refund.status in IN_FLIGHT:
                refund = self._world.tracked(refund)
            else:
                refund = self._world.step(refund)
        return refund

    def received(self, token: str) -> int:
        """Return how much of *token* the customer has."""
        return coin.balance_of(self.url, token, CUSTOMER)


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


def test_a_transfer_that_reverts_once_it_is_signed_fails(shop: Shop) -> None:
    """The nonce is used, and the refund is not paid (R20)."""
    refund = shop.signed("WUSD")
    coin.behave(shop.url, shop.weird, Behaviour.REVERTS_SILENTLY)

    refund = shop.finished(refund)

    assert refund.status is Status.FAILED
    assert refund.failure_code == "reverted"
    assert shop.received(shop.weird) == 0
    assert_next_refund_is_paid(shop, nonce=1)


@pytest.mark.parametrize("prevention", PREVENTIONS)
def test_a_paused_or_blocking_token_refuses_the_refund(
    shop: Shop, prevention: str
) -> None:
    """The simulation shows it before a nonce is assigned (R14)."""
    signature, arguments, reason = PREVENTIONS[prevention]
    coin.administer(shop.url, shop.good, signature, *arguments)

    refund = shop.finished(shop.accepted("TUSD"))

    assert refund.status is Status.REFUSED
    assert reason in str(refund.failure_detail)
    assert shop.finished(shop.accepted("WUSD")).nonce == 0


def test_a_token_that_is_paused_after_signing_fails_the_refund(shop: Shop) -> None:
    """The transfer reverts, so the refund fails and is not paid."""
    signature, arguments, _ = PREVENTIONS["paused"]
    refund = shop.signed("TUSD")
    coin.administer(shop.url, shop.good, signature, *arguments)

    refund = shop.finished(refund)

    assert refund.status is Status.FAILED
    assert shop.received(shop.good) == 0
    following = shop.finished(shop.accepted("WUSD"))
    assert (following.status, following.nonce) == (Status.CONFIRMED, 1)


def test_a_token_becomes_more_expensive(shop: Shop) -> None:
    """What the last transfer needed no longer suffices, and none runs out of gas."""
    worker = shop.worker
    limits = []
    for behaviour in (Behaviour.GOOD, Behaviour.GOOD, Behaviour.CHARGES_SENDER):
        coin.behave(shop.url, shop.weird, behaviour)
        refund = shop.accepted("WUSD")
        worker.work()
        limits.append(shop.gas_limit(refund))
        assert shop.finished(refund).status is Status.CONFIRMED

    assert limits[0] == limits[1]  # Otherwise nothing was remembered.
    assert limits[2] > limits[1]
