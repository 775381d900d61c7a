"""
How often workers ask nodes and the database: idle, and for each confirmed refund.

Time is simulated, so that the counts are the same in each run.  ``docs/explanation/
costs.md`` has them, and what they cost.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from backends.json_rpc import JSONRPCChain
from backends.sql import SQLStore
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.config.networks import Network
from signer.model.refund import Status
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.geth import GethChain
from tests.integration.node_calls import BLOCK_SECONDS, Fleet, SmallPool
from tests.support.ledgers import collected_statements
from tests.support.refunds import World


CONFIRMATIONS = 8
ETHEREUM_CONFIRMATIONS = 64
DEEP_SECONDS = 15 * 60
"""A little longer than so many blocks take; wallets are checked every 30 seconds."""

PER_MINUTE, IDLE_PER_MINUTE = 6, 2
PER_REFUND = 12
PER_REFUND_OF_FULL_BLOCKS, IN_BLOCK = 4, 20
IDLE_STATEMENTS_PER_MINUTE = 340
_OPENINGS = ("BEGIN", "SET LOCAL")
SLOTS = 16
"""How many transactions of an address geth's pool keeps in any case."""

EVERY = 8
"""Seconds between two refunds; 10,000 a day are one every 8.6 seconds."""

Start = Callable[..., Fleet]


@pytest.fixture
def start(request: pytest.FixtureRequest, sqlite_store: SQLStore) -> Iterator[Start]:
    """
    Return a function that starts so many nodes and workers.

    Its parameter is the fixture of the chain: anvil without one.
    """
    chain: DevChain = request.getfixturevalue(getattr(request, "param", "fresh_anvil"))
    with ExitStack() as stack:

        def start_fleet(
            nodes: int,
            workers: int,
            confirmations: int = CONFIRMATIONS,
            store: SQLStore = sqlite_store,
        ) -> Fleet:
            asked = [stack.enter_context(FakeNode(chain.url)) for _ in range(nodes)]
            urls = [each.url for each in asked]
            token = {"address": chain.token, "decimals": 6, "max_amount": "1000"}
            network = Network.model_validate(
                {
                    "chain_id": CHAIN_ID,
                    "rpc_urls": urls,
                    "confirmations": confirmations,
                    "tokens": {"TUSD": token},
                }
            )
            client = JSONRPCChain(urls, timeout=10, chain_id=CHAIN_ID)
            world = World(store, client=client, network=network)
            coin.fund(chain.url, world.signer.address, token=chain.token)
            chain.mine_on_request()
            fleet = Fleet(world, chain, asked)
            fleet.start(workers)
            return fleet

        yield start_fleet


@pytest.mark.parametrize(
    ("start", "nodes", "workers"),
    [
        *(("fresh_anvil", *each) for each in ((1, 1), (3, 2))),
        pytest.param("geth", 1, 1, marks=pytest.mark.nodes),
    ],
    indirect=["start"],
)
def test_calls_of_each_node_are_bounded(start: Start, nodes: int, workers: int) -> None:
    """
    Six a minute, two while nothing is open, and twelve for each confirmed refund.

    Four for each if a block has twenty of them, or as many as geth's pool.
    """
    fleet = start(nodes, workers)
    fleet.run(60)
    fleet.count()
    fleet.run(540)
    idle = fleet.count()
    assert idle.total() <= 9 * PER_MINUTE, idle
    fleet.run(60)
    fleet.count()
    fleet.run(1800)
    idle = fleet.count()
    assert idle.total() <= 30 * IDLE_PER_MINUTE, idle

    # A busy service: the refunds of before are confirmed while others are accepted.
    fleet.run(CONFIRMATIONS * BLOCK_SECONDS + 24, every=EVERY)
    fleet.count()
    confirmed = fleet.confirmed()
    fleet.run(240, every=EVERY)
    load = fleet.count()
    confirmed = fleet.confirmed() - confirmed
    assert confirmed >= 25
    assert load.total() <= PER_REFUND * confirmed, load

    in_block = SLOTS if isinstance(fleet.chain, GethChain) else IN_BLOCK
    for full in range(CONFIRMATIONS + 8):
        if full == CONFIRMATIONS + 2:
            fleet.count()
            confirmed = fleet.confirmed()
        fleet.accept(in_block)
        fleet.run(BLOCK_SECONDS, step=2)
    load, confirmed = fleet.count(), fleet.confirmed() - confirmed
    assert confirmed == 6 * in_block
    assert load.total() <= PER_REFUND_OF_FULL_BLOCKS * confirmed, load

    # The last ones are confirmed on time, although nothing else is to be done.
    fleet.run((CONFIRMATIONS + 2) * BLOCK_SECONDS)
    assert set(fleet.statuses()) == {Status.CONFIRMED}


def test_statements_of_an_idle_worker_are_bounded(
    start: Start, store: SQLStore
) -> None:
    """
    It makes a pass every second, as a process does when nothing wakes it.

    A statement alone is a transaction, so its opening is not counted.
    """
    fleet = start(1, 1, store=store)
    fleet.run(60, step=1)
    with collected_statements(store) as statements:
        fleet.run(600, step=1)
    sent = Counter(each for each in statements if not each.startswith(_OPENINGS))
    assert sent.total() <= 10 * IDLE_STATEMENTS_PER_MINUTE, sent


def test_calls_for_a_refund_that_is_alone_are_bounded(start: Start) -> None:
    """By twelve as well, at Ethereum's depth, and beside the checks of the wallet."""
    fleet = start(1, 2, ETHEREUM_CONFIRMATIONS)
    for process in fleet.processes:
        process.look_at = math.inf  # Only the workers are counted.
    fleet.run(60)
    fleet.accept(1)
    fleet.run(DEEP_SECONDS)  # The workers learn how long a block takes.
    fleet.count()
    fleet.run(DEEP_SECONDS)
    idle = fleet.count()
    # They become frequent with the refund.
    idle["eth_getTransactionCount"] = DEEP_SECONDS // 30
    fleet.accept(1)
    fleet.run(DEEP_SECONDS)

    assert fleet.confirmed() == 2
    calls = fleet.count() - idle
    assert calls.total() <= PER_REFUND, calls


def test_a_burst_beyond_the_pool_fills_every_block(start: Start) -> None:
    """
    What the node dropped is sent again when a block shows it, and never signed again.

    Each block but the last has as many of our transactions as the pool holds.
    """
    fleet = start(1, 2)
    pool = SmallPool(fleet.chain, fleet.nodes[0], SLOTS)
    fleet.run(60)
    first = fleet.head() + 1
    fleet.accept(4 * SLOTS + 1)
    fleet.count()
    fleet.run(6 * BLOCK_SECONDS)

    mined = [fleet.transactions_in(each) for each in range(first, fleet.head() + 1)]
    assert [each for each in mined if each] == [SLOTS] * 4 + [1], mined
    assert 0 not in mined[1:5]
    assert len(pool.sent) == len(fleet.refunds)  # Each has one transaction.
    assert fleet.count().total() <= PER_REFUND * len(fleet.refunds)
