"""Tokens that misbehave, on real chains: estimate, call, receipt and events."""

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.stablecoin import Behaviour
from signer.chain.erc20 import has_exact_transfer
from signer.errors import ExecutionRevertedError
from signer.ports.chain import Call, ChainClient
from tests.fixtures.chain import DevChain
from tests.support.payments import RECIPIENT, mined, transfer
from tests.support.rpc import broadcast


AMOUNT = 1_000_000

TRUE, FALSE, NOTHING = (1).to_bytes(32), bytes(32), b""

NOT_TODAY = keccak(text="NotToday(address,uint256)")[:4].hex()

REASONS = {
    Behaviour.REVERTS_WITH_REASON: "WeirdUSD: not today",
    Behaviour.REVERTS_WITH_ERROR: f"custom error 0x{NOT_TODAY}",
    Behaviour.REVERTS_SILENTLY: "the contract gave no reason",
    Behaviour.PANICS: "panic 0x01: assertion failed",
}

# What a call returns, whether the events prove the payment, what the payee got.
OUTCOMES = {
    Behaviour.GOOD: (TRUE, True, AMOUNT),
    Behaviour.RETURNS_NOTHING: (NOTHING, True, AMOUNT),
    Behaviour.RETURNS_FALSE: (FALSE, False, 0),
    Behaviour.CHARGES_RECIPIENT: (TRUE, False, AMOUNT * 99 // 100),
    Behaviour.CHARGES_SENDER: (TRUE, True, AMOUNT),
    Behaviour.REPEATS_EVENT: (TRUE, False, AMOUNT),
    Behaviour.OVERSTATES_EVENT: (TRUE, False, AMOUNT),
    Behaviour.SAYS_NOTHING: (TRUE, False, AMOUNT),
}


class Bench:
    """A payer with coins of a WeirdUSD, on one chain."""

    def __init__(self, dev: DevChain, client: ChainClient) -> None:
        self.client = client
        self.payer: LocalAccount = Account.create()
        self.token = coin.deploy(dev.url, "WeirdUSD")
        self.url = dev.url
        coin.fund(dev.url, self.payer.address, token=self.token, amount=10 * AMOUNT)

    def behave(self, behaviour: Behaviour) -> None:
        """Change the behaviour of the token."""
        coin.behave(self.url, self.token, behaviour)

    @property
    def call(self) -> Call:
        """The transfer, not signed yet."""
        data = coin.calldata("transfer(address,uint256)", RECIPIENT, AMOUNT)
        return Call(self.payer.address, self.token, data)


@pytest.fixture
def bench(dev_chain: DevChain, chain: JSONRPCChain) -> Bench:
    """A payer on each chain in turn."""
    return Bench(dev_chain, chain)


def test_every_behaviour_has_its_row() -> None:
    """Each behaviour of the token is in one of the two tables."""
    assert set(REASONS) | set(OUTCOMES) == set(Behaviour)


@pytest.mark.parametrize("behaviour", OUTCOMES, ids=lambda behaviour: behaviour.name)
def test_only_the_events_prove_a_transfer(bench: Bench, behaviour: Behaviour) -> None:
    """Neither the result of a call nor the status proves a payment (R21, R22)."""
    answer, paid, received = OUTCOMES[behaviour]
    bench.behave(behaviour)

    assert bench.client.call(bench.call) == answer
    gas = bench.client.estimate_gas(bench.call)
    assert 21_000 < gas < 200_000

    raw = transfer(bench.payer, bench.token, AMOUNT, gas=gas)
    broadcast(bench.client, raw)
    receipt = mined(bench.client, raw)

    assert receipt.succeeded
    assert coin.balance_of(bench.url, bench.token, RECIPIENT) == received
    assert paid is has_exact_transfer(
        receipt.logs,
        token=bench.token,
        sender=bench.payer.address,
        recipient=RECIPIENT,
        amount=AMOUNT,
    )


@pytest.mark.parametrize("behaviour", REASONS, ids=lambda behaviour: behaviour.name)
def test_a_transfer_that_reverts(bench: Bench, behaviour: Behaviour) -> None:
    """
    Estimate and call decode each form of a reason, before anything is sent.

    If it is mined, it moves nothing, has no events, and has not succeeded (R20).
    """
    bench.behave(behaviour)

    for method in ("estimate_gas", "call"):
        with pytest.raises(ExecutionRevertedError) as caught:
            getattr(bench.client, method)(bench.call)

        assert str(caught.value) == REASONS[behaviour]

    raw = transfer(bench.payer, bench.token, AMOUNT)
    broadcast(bench.client, raw)
    receipt = mined(bench.client, raw)

    assert not receipt.succeeded
    assert receipt.logs == ()
    assert coin.balance_of(bench.url, bench.token, RECIPIENT) == 0
