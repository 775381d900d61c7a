"""Refunds through nodes that answer too late, or like a replica that lags."""

import random
from collections.abc import Callable, Iterator

import pytest
from eth_utils.address import to_checksum_address
from structlog.testing import capture_logs

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.alerts import Alert, Alerts
from signer.config.networks import Network
from signer.model.refund import Refund, Status
from signer.ports.ledger import Ledger
from signer.ports.meter import NO_METER
from signer.refunds.wallet_monitor import WalletMonitor
from signer.refunds.worker_monitor import Heartbeat
from tests.fixtures.chain import DevChain
from tests.fixtures.replica import Replica
from tests.support.refunds import World


CONFIRMATIONS = 4
REFUNDS = 6
AMOUNT = 10_000


class Shop:
    """A service that pays on *chain* through *replica* alone."""

    def __init__(self, chain: DevChain, replica: Replica, store: Ledger) -> None:
        self.chain = chain
        self.replica = replica
        token = {"address": chain.token, "decimals": 6, "max_amount": "1000"}
        network = Network.model_validate(
            {
                "chain_id": CHAIN_ID,
                "rpc_urls": [replica.url],
                "confirmations": CONFIRMATIONS,
                "tokens": {"TUSD": token},
            }
        )
        self.world = World(store, client=_client(replica.url), network=network)
        self.refunds: list[Refund] = []
        coin.fund(chain.url, self.world.signer.address, token=chain.token)
        chain.mine_on_request()
        chain.mine(16)  # A replica that lags has the funds.
        self.world.work()  # The key joins the ring.

    def head(self) -> int:
        return int(self.chain.rpc("eth_blockNumber"), 16)

    def lag(self, blocks: int) -> None:
        """Let the replica have no block that is newer than so many ago."""
        self.replica.newest = self.head() - blocks

    def accept(self) -> None:
        payee = _payee(len(self.refunds))
        self.refunds.append(self.world.accepted(recipient=payee, amount="0.01"))

    def look(self) -> None:
        """
        Run a pass of a new worker; what it calls final has its depth on the chain.

        A worker that is not new asks a node again a while after it was too late.
        """
        self.world.client = _client(self.replica.url)
        self.world.clock.advance(seconds=31)
        self.world.work()
        head = self.head()
        for each in map(self.world.stored, self.refunds):
            if each.status is Status.CONFIRMED:
                assert head - (each.block_number or head) + 1 >= CONFIRMATIONS
                receipt = self.chain.rpc("eth_getTransactionReceipt", each.tx_hash)
                assert int(receipt["status"], 16) == 1

    def pay_all(self, before_look: Callable[[], None]) -> None:
        """Pay refunds, one in each block, until all are confirmed."""
        for number in range(100):
            if number < REFUNDS:
                self.accept()
            before_look()
            self.look()
            if self.statuses() == [Status.CONFIRMED] * REFUNDS:
                break
            self.chain.mine()

    def statuses(self) -> list[Status]:
        return self.world.statuses(self.refunds)

    def require_paid_once(self) -> None:
        """Require a payment for each refund, with nonces that have no gap."""
        assert self.statuses() == [Status.CONFIRMED] * REFUNDS
        for number in range(REFUNDS):
            paid = coin.balance_of(self.chain.url, self.chain.token, _payee(number))
            assert paid == AMOUNT
        nonces = {self.world.stored(each).nonce for each in self.refunds}
        sender = self.world.signer.address
        count = self.chain.rpc("eth_getTransactionCount", sender, "pending")
        assert nonces == {*range(REFUNDS)}
        assert int(count, 16) == REFUNDS

    def alerts(self, *urls: str) -> list[tuple[str, str | None]]:
        """Return what two looks of the monitor at *urls* raise."""
        self.world.client = _client(*urls)
        world = self.world
        heartbeat = Heartbeat(world.store, world.clock)
        heartbeat.name = "a"
        heartbeat()
        monitor = WalletMonitor(
            world.store,
            world.chains,
            Alerts(world.store, clock=world.clock),
            name="a",
            clock=world.clock,
            meter=NO_METER,
        )
        with capture_logs() as lines:
            for _ in range(2):
                monitor.look()
        found = (line for line in lines if line["event"] == "alert")
        return [(line["alert"], line.get("node")) for line in found]


def _client(*urls: str) -> JSONRPCChain:
    return JSONRPCChain(urls, timeout=0.5, chain_id=CHAIN_ID)


def _payee(number: int) -> str:
    return to_checksum_address(f"0x{number + 0xA11CE:040x}")


@pytest.fixture
def shop(node: DevChain, sqlite_store: Ledger) -> Iterator[Shop]:
    with Replica(node.url) as replica:
        yield Shop(node, replica, sqlite_store)


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_that_come_too_late_pay_once(shop: Shop, seed: int) -> None:
    """What a node did not answer in time may have happened."""
    dice = random.Random(seed)
    shop.replica.is_late = lambda _: dice.random() < 0.2

    shop.pay_all(lambda: None)

    shop.require_paid_once()


def test_a_node_that_answers_too_late_is_down(shop: Shop) -> None:
    shop.replica.is_late = lambda _: True

    assert (Alert.NODE_DOWN, "node-1") in shop.alerts(shop.replica.url)


@pytest.mark.parametrize("blocks", [1, 3, 6])
def test_a_replica_that_lags_pays_once(shop: Shop, blocks: int) -> None:
    """Its blocks, receipts and counts are old, also older than what is final."""
    shop.pay_all(lambda: shop.lag(blocks))

    shop.require_paid_once()


@pytest.mark.parametrize("blocks", [1, 3, 6])
@pytest.mark.parametrize("every", [2, 3])
def test_one_url_of_two_replicas_pays_once(shop: Shop, blocks: int, every: int) -> None:
    """One of them lags, and its answers alternate with those of the other one."""
    shop.replica.lags = lambda number: number % every == 0

    shop.pay_all(lambda: shop.lag(blocks))

    shop.require_paid_once()


def test_a_replica_that_lags_is_an_alert(shop: Shop) -> None:
    """Beside a node that does not; ten blocks are still none."""
    urls = shop.chain.url, shop.replica.url
    shop.lag(10)
    near = shop.alerts(*urls)
    shop.lag(11)

    assert near == []
    assert shop.alerts(*urls) == [(Alert.NODE_LAGGING, "node-2")]
