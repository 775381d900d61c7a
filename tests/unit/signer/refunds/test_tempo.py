"""Refunds, no-ops and sweeps on a chain whose fees are paid in a token."""

from dataclasses import replace

import pytest

from signer.crypto.transactions import SignedBytes, TempoTransaction
from signer.errors import PolicyViolationError
from signer.model.refund import Refund, Status
from signer.refunds.first_signatures import SIMULATION_VALID_FOR
from signer.refunds.payment_checks import check_transfer
from tests.fixtures.scripted_chain import DECIMALS
from tests.support.other_payments import Left, sweeper
from tests.support.refunds import CUSTOMER, World


@pytest.fixture
def tempo(world: World) -> World:
    """The service on a network of which TUSD pays the fees."""
    fees = {"fees": "tempo", "coin_is": "TUSD"}
    world.network = world.network.model_copy(update=fees)
    world.chain.coin = 10**24
    return world


def _sent(world: World, refund: Refund) -> TempoTransaction:
    sent = SignedBytes.decode(world.sent(world.stored(refund)).raw).transaction
    assert isinstance(sent, TempoTransaction)
    return sent


def test_a_refund_names_the_token_of_its_fee(tempo: World) -> None:
    """A transaction with another one is not signed."""
    refund = tempo.step(tempo.accepted(), times=3)
    sent = _sent(tempo, refund)

    token = tempo.network.tokens["TUSD"].address
    assert (sent.to, sent.fee_token) == (token, token)
    gas = sent.gas
    check_transfer(sent, refund, tempo.network, gas=gas)
    other = replace(sent, fee_token=CUSTOMER)
    with pytest.raises(PolicyViolationError) as refused:
        check_transfer(other, refund, tempo.network, gas=gas)
    assert refused.value.rule == "transaction-type"
    in_coin = tempo.network.model_copy(update={"fees": "eip-1559"})
    with pytest.raises(PolicyViolationError):
        check_transfer(sent, refund, in_coin, gas=gas)


def test_a_nonce_is_used_up_with_the_gas_of_a_new_account(tempo: World) -> None:
    """The first nonce of an account costs 250,000 gas (TIP-1000)."""
    reserved = tempo.step(tempo.accepted())
    tempo.clock.now += 2 * SIMULATION_VALID_FOR
    tempo.chain.revert = "Blocked: recipient"

    refund = tempo.step(reserved, times=2)

    sent = _sent(tempo, refund)
    assert refund.status is Status.BROADCAST
    assert (sent.to, sent.data, sent.gas) == (tempo.signer.address, b"", 300_000)


def test_a_sweep_moves_the_token_last(left: Left, tempo: World) -> None:
    """All of it but the fee; nothing, if the fee is more."""
    tokens = dict(tempo.network.tokens)  # That of other tests stays as it is.
    tokens["EURC"] = tokens["TUSD"].model_copy(update={"address": CUSTOMER})
    tempo.network = tempo.network.model_copy(update={"tokens": tokens})
    left.coins = 10**18
    other, last = sweeper(tempo).plan(tempo.signer.address)
    left.coins = 10**9

    assert (other.symbol, other.waits_for) == ("EURC", None)
    assert (last.symbol, last.decimals) == ("TUSD", DECIMALS)
    assert last.waits_for is not None
    assert 0 < last.amount < 10**6
    assert [each.symbol for each in sweeper(tempo).plan(tempo.signer.address)] == [
        "EURC"
    ]
