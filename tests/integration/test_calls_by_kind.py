"""How often a worker asks nodes of each kind of network, in simulated time."""

import pytest

from api.backend_factories import _connect
from backends.json_rpc import JSONRPCChain
from backends.sql import SQLStore
from dev import stablecoin as coin
from dev.anvil import ROOT, find_anvil
from dev.chain import CHAIN_ID, LocalChain
from signer.config.networks import Network
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Error
from tests.integration.node_calls import Fleet
from tests.integration.test_batches import Shop
from tests.support.refunds import World


pytestmark = pytest.mark.soak

CALLS = {
    "ethereum": (90, 12),
    "op-stack": (84, 14),
    "arbitrum": (76, 12),
    "polygon": (81, 15),
    "instant": (57, 12),
    "arc": (58, 13),
    "tempo": (58, 13),
}
"""Calls for each refund at 100 and at 10,000 a day, with those between refunds."""

CALLS_OF_BATCH, WITHOUT_SIMULATION = 16, 116
"""For 100 refunds that a vault pays together, 1,080,000 a day."""

DAY = 86_400


@pytest.mark.parametrize("position", [0, 1], ids=["100", "10000"])
@pytest.mark.parametrize("kind", CALLS)
def test_calls_of_a_kind_are_as_declared(
    kind: str, position: int, sqlite_store: SQLStore
) -> None:
    every, measured = ((DAY / 100, 2), (DAY / 10_000, 40))[position]
    special = kind if kind in {"arc", "tempo"} else None
    with LocalChain(find_anvil(ROOT), kind=special) as node, FakeNode(node.url) as fake:
        token = coin.deploy_on(node.url, special)
        chain = DevChain(node.url, coin.issuer(node.url), token)
        entry = {"address": token, "decimals": 6, "max_amount": "1000"}
        network = Network.model_validate(
            {
                "chain_id": CHAIN_ID,
                "rpc_urls": [fake.url],
                "kind": kind,
                "tokens": {"TUSD": entry},
                "coin_is": special and "TUSD",
            }
        )
        client = _connect(JSONRPCChain, network)
        world = World(sqlite_store, client=client, network=network)
        coin.fund(node.url, world.signer.address, token=token, kind=special)
        chain.mine_on_request()
        chain.mine(70)
        block = network.block_seconds or 0
        fleet = Fleet(world, chain, [fake], block)
        fleet.start(1)
        depth = network.confirmations * block + 60
        _pay(fleet, depth + (60 if position else 0), every, depth)
        fleet.count()
        before = fleet.confirmed()
        _pay(fleet, measured * every, every, depth)

        confirmed = fleet.confirmed() - before
        calls = fleet.count()
    assert confirmed == measured
    bound = CALLS[kind][position]
    assert bound - 2 < calls.total() / confirmed <= bound, calls


def _pay(fleet: Fleet, seconds: float, every: float, depth: float) -> None:
    """Accept a refund *every* so many seconds; workers look each second or two."""
    until = fleet.seconds + seconds
    while fleet.seconds < until:
        if fleet.seconds >= len(fleet.refunds) * every:
            fleet.accept(1)
        late = fleet.seconds - (len(fleet.refunds) - 1) * every > depth
        busy = 1 if fleet.block_seconds <= 2 else 2
        step = 4 if late else busy
        fleet.run(step, step=step)


@pytest.mark.parametrize("declared", [CALLS_OF_BATCH, WITHOUT_SIMULATION])
def test_calls_of_a_full_batch_are_as_declared(
    fresh_anvil: DevChain, sqlite_store: SQLStore, declared: int
) -> None:
    """One of them simulates all refunds, if the node serves it."""
    with FakeNode(fresh_anvil.url) as fake:
        if declared == WITHOUT_SIMULATION:
            fake.script("eth_simulateV1", Error(-32601, "no such method"))
        world = Shop(fresh_anvil, sqlite_store, confirmations=8).world
        world.client = JSONRPCChain([fake.url], timeout=10, chain_id=CHAIN_ID)
        fresh_anvil.mine_on_request()
        fleet = Fleet(world, fresh_anvil, [fake])
        fleet.start(1)
        _pay_batches(fleet, 14)
        fleet.count()
        before = fleet.confirmed()
        _pay_batches(fleet, 6)

        batches = (fleet.confirmed() - before) / 100
        calls = fleet.count()
    assert batches == 6
    assert declared - 2 < calls.total() / batches <= declared, calls


def _pay_batches(fleet: Fleet, count: int) -> None:
    for _ in range(count):
        fleet.accept(100)
        fleet.run(8, step=2)
