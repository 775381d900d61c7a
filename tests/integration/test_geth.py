"""Refunds on geth: bursts that its pool cannot hold, a restart, and rollbacks."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from backends.json_rpc import JSONRPCChain
from backends.sql import SQLStore
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.config.networks import Network
from signer.errors import ChainError
from signer.model.refund import Refund, Status
from signer.ports.ledger import Ledger
from tests.fixtures.geth import BLOCK_SECONDS, SLOTS, GethChain
from tests.integration.test_batches import Shop
from tests.support.refunds import World


pytestmark = pytest.mark.nodes

_TRANSFER = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
AMOUNT = 10_000
SPARE_BLOCKS = 2
"""Besides those that a burst fills, for the last confirmations."""


class RecordingClient(JSONRPCChain):
    """A client that remembers the broadcasts that failed."""

    failed: Sequence[ChainError] = ()

    def broadcast_all(self, raws: Sequence[bytes]) -> Sequence[ChainError | None]:
        errors = super().broadcast_all(raws)
        self.failed = [*self.failed, *(each for each in errors if each is not None)]
        return errors


class Service:
    """A service that pays on *chain*, one step at a time."""

    def __init__(self, chain: GethChain, world: World) -> None:
        self.chain = chain
        self.world = world
        self.client = RecordingClient([chain.url], timeout=10, chain_id=CHAIN_ID)
        self.refunds: list[Refund] = []
        self.most_in_pool = 0
        world.client = self.client
        head = chain.rpc("eth_getBlockByNumber", "latest", False)
        world.clock.now = datetime.fromtimestamp(int(head["timestamp"], 16), UTC)
        chain.mine_on_request()

    def accept(self, count: int) -> None:
        """Accept refunds, each for another payee."""
        self.refunds += [
            self.world.accepted(recipient=_payee(number), amount="0.01")
            for number in range(len(self.refunds), len(self.refunds) + count)
        ]

    def work(self) -> None:
        """Run passes of the worker until nothing is due."""
        while self.world.work(after=timedelta(0)):
            self.most_in_pool = max(self.most_in_pool, len(self.pool()))

    def block(self) -> None:
        """Let a block come, and work after it."""
        self.chain.mine()
        self.world.clock.advance(seconds=BLOCK_SECONDS)
        self.work()

    def blocks_until(self, condition: Callable[[], bool], most: int) -> int:
        """Return after how many blocks *condition* is true; at *most* so many."""
        for blocks in range(most + 1):
            if condition():
                return blocks
            self.block()
        raise AssertionError(Counter(self.statuses()))

    def statuses(self) -> list[Status]:
        return self.world.statuses(self.refunds)

    def is_over(self) -> bool:
        """Whether each refund has ended."""
        return all(each.is_final for each in self.statuses())

    def pool(self) -> set[str]:
        """Return the nonces of the wallet that the node's pool has."""
        content = self.chain.rpc("txpool_contentFrom", self.world.signer.address)
        return {nonce for part in content.values() for nonce in part}

    def paid(self) -> dict[str, int]:
        """Return how often the token's events name each payee."""
        holder = self.world.network.token_holder(self.world.signer.address)
        logs = self.chain.rpc(
            "eth_getLogs",
            {
                "address": self.chain.token,
                "fromBlock": "0x0",
                "topics": [_TRANSFER, f"0x{holder[2:].lower():0>64}"],
            },
        )
        assert {int(log["data"], 16) for log in logs} <= {AMOUNT}
        return Counter(
            to_checksum_address(f"0x{log['topics'][2][-40:]}") for log in logs
        )


def _payee(number: int) -> str:
    return to_checksum_address(f"0x{number + 0xA11CE:040x}")


@pytest.fixture
def plain(geth: GethChain, sqlite_store: Ledger) -> Service:
    """A service whose wallet holds the tokens; no rollback is as deep as its depth."""
    token = {"address": geth.token, "decimals": 6, "max_amount": "1000"}
    network = Network.model_validate(
        {
            "chain_id": CHAIN_ID,
            "rpc_urls": [geth.url],
            "confirmations": 9,
            "max_in_flight": SLOTS,
            "tokens": {"TUSD": token},
        }
    )
    world = World(sqlite_store, network=network)
    coin.fund(geth.url, world.signer.address, token=geth.token)
    return Service(geth, world)


@pytest.fixture
def vault(
    geth: GethChain, sqlite_store: SQLStore, request: pytest.FixtureRequest
) -> Service:
    """A service whose network has a vault; the parameter is its largest batch."""
    limits = {"max_in_flight": SLOTS, "max_batch": request.param}
    return Service(geth, Shop(geth, sqlite_store, **limits).world)


def _burst(service: Service, count: int, most: int) -> int:
    """Return how many blocks pay *count* refunds, of which one is cancelled."""
    service.accept(count)
    service.work()
    *others, last = service.refunds
    assert service.world.stored(last).nonce is None
    service.world.cancel(last)
    service.work()
    blocks = service.blocks_until(service.is_over, most)

    assert service.statuses() == [Status.CONFIRMED] * len(others) + [Status.CANCELLED]
    assert service.paid() == {_payee(number): 1 for number in range(len(others))}
    assert service.most_in_pool == SLOTS
    assert not service.client.failed
    return blocks


@pytest.mark.parametrize(
    ("vault", "count"),
    [(4, 150), pytest.param(100, 5_000, marks=pytest.mark.soak)],
    indirect=["vault"],
)
def test_a_burst_of_batches_keeps_within_the_pool(vault: Service, count: int) -> None:
    """Six blocks pay all, each transaction is accepted, and what waits has no nonce."""
    _burst(vault, count, most=6)


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.soak)])
def test_a_burst_of_transfers_keeps_within_the_pool(plain: Service, count: int) -> None:
    """Each block but the last has as many as the pool guarantees to an account."""
    most = -(-count // SLOTS) + plain.world.network.confirmations + SPARE_BLOCKS
    _burst(plain, count, most)


def test_a_restart_that_empties_the_pool(plain: Service) -> None:
    """What was broadcast is sent again, and pays once."""
    plain.accept(5)
    plain.work()
    assert len(plain.pool()) == 5

    plain.chain.node.stop()
    plain.world.work(after=timedelta(seconds=31))
    plain.chain.node.start()
    assert not plain.pool()

    plain.blocks_until(plain.is_over, 20)
    assert set(plain.statuses()) == {Status.CONFIRMED}
    assert plain.paid() == {_payee(number): 1 for number in range(5)}


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_a_rollback_of_tracked_refunds(plain: Service, depth: int) -> None:
    """The node loses blocks and what they had; the same bytes pay once."""
    for _ in range(8):
        plain.accept(2)
        plain.work()
        plain.block()
    before = [plain.world.stored(each).tx_hash for each in plain.refunds]

    plain.chain.node.roll_back(depth)
    plain.work()
    plain.blocks_until(plain.is_over, 30)

    assert set(plain.statuses()) == {Status.CONFIRMED}
    assert [plain.world.stored(each).tx_hash for each in plain.refunds] == before
    assert plain.paid() == {_payee(number): 1 for number in range(16)}
