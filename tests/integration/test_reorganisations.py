"""A chain reorganises a hundred times while refunds are in flight (G6, R19)."""

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
def world(node: DevChain, sqlite_store: Ledger) -> World:
    """The service over a real chain that mines only on request."""
    token = {"address": node.token, "decimals": 6, "max_amount": "1000"}
    network = Network.model_validate(
        {
            "chain_id": CHAIN_ID,
            "rpc_urls": [node.url],
            "confirmations": CONFIRMATIONS,
            "tokens": {"TUSD": token},
        }
    )
    client = JSONRPCChain([node.url], timeout=10, chain_id=CHAIN_ID)
    world = World(sqlite_store, client=client, network=network)
    coin.fund(node.url, world.signer.address, token=node.token)
    node.mine_on_request()
    # No reorganisation reaches the blocks with the funds.
    node.mine(CONFIRMATIONS)
    return world


def _head(node: DevChain) -> int:
    return int(node.rpc("eth_blockNumber"), 16)


def _run_pass(world: World, node: DevChain, refund: Refund) -> Refund:
    """Run one worker pass and track once; nothing is confirmed before its depth."""
    world.work(after=timedelta(seconds=31))
    after = world.stored(refund)
    if after.status is Status.CONFIRMED:
        assert after.block_number is not None
        depth = _head(node) - after.block_number + 1
        block = node.rpc("eth_getBlockByNumber", hex(after.block_number), False)
        assert depth >= CONFIRMATIONS
        assert block["hash"] == after.reserved().block_hash
    return after


def test_random_reorganisations_pay_once(world: World, node: DevChain) -> None:
    """
    A hundred reorganisations of depth 1 to 8: same nonce and bytes, paid and logged
    once.
    """
    dice = random.Random(19)
    before = coin.balance_of(node.url, node.token, CUSTOMER)
    done, refunds = 0, []
    while done < REORGANISATIONS:
        refund = world.accepted(amount="0.01")
        for _ in range(dice.randint(1, 5)):
            refund = _run_pass(world, node, refund)
            node.mine(dice.randint(1, CONFIRMATIONS - 1))
            refund = _run_pass(world, node, refund)
            if refund.status is Status.CONFIRMED:
                break
            depth = dice.randint(1, 8)
            node.reorganise(depth)
            done += 1
            refund = _run_pass(world, node, refund)
        refunds.append(refund)
    for _ in range(5):
        node.mine(CONFIRMATIONS)
        refunds = [_run_pass(world, node, refund) for refund in refunds]

    paid = coin.balance_of(node.url, node.token, CUSTOMER) - before
    assert {refund.status for refund in refunds} == {Status.CONFIRMED}
    assert sorted(str(refund.nonce) for refund in refunds) == sorted(
        str(nonce) for nonce in range(len(refunds))
    )
    assert paid == 10_000 * len(refunds)
