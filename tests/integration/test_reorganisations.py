"""Anvil reorganises a hundred times while refunds are in flight (G6, R19)."""

import random
from datetime import timedelta

import pytest

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.config.networks import Network
from signer.model.refund import Refund, Status
from signer.ports.ledger import Ledger
from tests.fixtures.chain import DevChain
from tests.support.refunds import CUSTOMER, World


# More than the depth of any reorganisation.
CONFIRMATIONS = 9
REORGANISATIONS = 100


@pytest.fixture
def world(fresh_anvil: DevChain, sqlite_store: Ledger) -> World:
    """The service over a real chain that mines only on request."""
    token = {"address": fresh_anvil.token, "decimals": 6, "max_amount": "1000"}
    network = Network.model_validate(
        {
            "chain_id": CHAIN_ID,
            "rpc_urls": [fresh_anvil.url],
            "confirmations": CONFIRMATIONS,
            "tokens": {"TUSD": token},
        }
    )
    client = JSONRPCChain([fresh_anvil.url], timeout=10, chain_id=CHAIN_ID)
    world = World(sqlite_store, client=client, network=network)
    coin.fund(fresh_anvil.url, world.signer.address, token=fresh_anvil.token)
    fresh_anvil.rpc("evm_setAutomine", False)
    # No reorganisation reaches the blocks with the funds.
    fresh_anvil.rpc("anvil_mine", hex(CONFIRMATIONS))
    return world


def _head(anvil: DevChain) -> int:
    return int(anvil.rpc("eth_blockNumber"), 16)


def _run_pass(world: World, anvil: DevChain, refund: Refund) -> Refund:
    """Run one worker pass and track once; nothing is confirmed before its depth."""
    world.work(after=timedelta(seconds=31))
    after = world.stored(refund)
    if after.status is Status.CONFIRMED:
        assert after.block_number is not None
        depth = _head(anvil) - after.block_number + 1
        block = anvil.rpc("eth_getBlockByNumber", hex(after.block_number), False)
        assert depth >= CONFIRMATIONS
        assert block["hash"] == after.reserved().block_hash
    return after


def test_random_reorganisations_pay_once(world: World, fresh_anvil: DevChain) -> None:
    """
    A hundred reorganisations of depth 1 to 8: same nonce and bytes, paid and logged
    once.
    """
    dice = random.Random(19)
    before = coin.balance_of(fresh_anvil.url, fresh_anvil.token, CUSTOMER)
    done, refunds = 0, []
    while done < REORGANISATIONS:
        refund = world.accepted(amount="0.01")
        for _ in range(dice.randint(1, 5)):
            refund = _run_pass(world, fresh_anvil, refund)
            fresh_anvil.rpc("anvil_mine", hex(dice.randint(1, CONFIRMATIONS - 1)))
            refund = _run_pass(world, fresh_anvil, refund)
            if refund.status is Status.CONFIRMED:
                break
            depth = dice.randint(1, 8)
            fresh_anvil.rpc("anvil_reorg", depth, [])
            done += 1
            refund = _run_pass(world, fresh_anvil, refund)
        refunds.append(refund)
    for _ in range(5):
        fresh_anvil.rpc("anvil_mine", hex(CONFIRMATIONS))
        refunds = [_run_pass(world, fresh_anvil, refund) for refund in refunds]

    paid = coin.balance_of(fresh_anvil.url, fresh_anvil.token, CUSTOMER) - before
    assert {refund.status for refund in refunds} == {Status.CONFIRMED}
    assert sorted(str(refund.nonce) for refund in refunds) == sorted(
        str(nonce) for nonce in range(len(refunds))
    )
    assert paid == 10_000 * len(refunds)
