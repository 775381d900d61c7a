"""Refunds that a vault pays: the real contract on a real chain, the whole worker."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from eth_utils.address import to_checksum_address

from api.extras.books.comparison import Comparison, NetworkBooks
from api.extras.books.entries import Difference, Period
from api.extras.books.tables import BookTables
from backends.json_rpc import JSONRPCChain
from backends.json_rpc.history import JSONRPCHistory
from backends.sql import SQLStore
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.config.networks import Network
from signer.model.refund import Refund, Status
from tests.fixtures.chain import DevChain
from tests.support.refunds import World
from tests.support.vault import deploy_vault


PER_ITEM, PER_DAY = 9_000_000, 500_000_000
FUNDS = 10 * PER_DAY


def _address(number: int) -> str:
    return to_checksum_address(f"0x{number + 0xA11CE:040x}")


class Shop:
    """A service whose network has a vault."""

    def __init__(self, dev: DevChain, store: SQLStore, **given: object) -> None:
        self.dev, self._tables = dev, store.tables(BookTables)
        operator = World(store).signer.address
        self.vault = deploy_vault(
            dev.url,
            dev.token,
            caps=(PER_ITEM, PER_DAY),
            funds=FUNDS,
            operators=[operator],
        )
        token = {"address": dev.token, "decimals": 6, "max_amount": "9"}
        network = Network.model_validate(
            {
                "chain_id": CHAIN_ID,
                "rpc_urls": [dev.url],
                "confirmations": 1,
                "vault": self.vault.address,
                "tokens": {"TUSD": token},
                **given,
            }
        )
        client = JSONRPCChain([dev.url], timeout=10, chain_id=CHAIN_ID)
        self.world = World(store, client=client, network=network)
        assert self.world.signer.address == operator
        coin.fund(dev.url, operator, token=dev.token, amount=0)
        head = dev.rpc("eth_getBlockByNumber", "latest", False)
        seconds = int(head["timestamp"], 16)
        self.world.clock.now = datetime.fromtimestamp(seconds, UTC)

    def received(self, number: int) -> int:
        """Return what the payee *number* has."""
        return coin.balance_of(self.dev.url, self.dev.token, _address(number))

    def gas_used(self, tx_hash: str | None) -> int:
        """Return the gas that a transaction used, which was not reverted."""
        receipt = self.dev.rpc("eth_getTransactionReceipt", tx_hash)
        assert receipt["status"] == "0x1"
        return int(receipt["gasUsed"], 16)

    def books(self) -> tuple[list[Difference], NetworkBooks]:
        """Return how the ledger and the chain differ, and what they have."""
        start = datetime(2000, 1, 1, tzinfo=UTC)
        *events, result = Comparison(
            "local",
            self.world.network,
            JSONRPCHistory([self.dev.url], timeout=10),
            self._tables,
            Period(start, start.replace(year=2100)),
            addresses=[self.world.signer.address],
        ).run()
        assert isinstance(result, NetworkBooks)
        return [each for each in events if isinstance(each, Difference)], result

    def paid_by_the_books(self) -> int:
        """Return what refunds took out of the vault; the chain must say the same."""
        differences, books = self.books()
        assert differences == []
        owner = self.vault.address
        (vault,) = [each for each in books.accounts if each.wallet == owner]
        assert vault.closing == self.vault.balance()
        return vault.refunds

    def blocking(self, number: int) -> bytes:
        """Return the call that blocks the payee *number*."""
        return coin.calldata("setBlocked(address,bool)", _address(number), True)

    def capping(self, per_item: int, per_day: int) -> bytes:
        """Return the call that lowers the caps."""
        caps = "setCaps(address,uint96,uint96)"
        return coin.calldata(caps, self.dev.token, per_item, per_day)

    def block(self, number: int) -> None:
        """Let the token's issuer block the payee *number*."""
        data = "0x" + self.blocking(number).hex()
        issuer = coin.issuer(self.dev.url)
        self.dev.rpc.transact({"from": issuer, "to": self.dev.token, "data": data})

    def overtake(self, sender: str, to: str, *calls: bytes) -> None:
        """Let *sender* make *calls* in the block of what the service has sent."""
        fee = hex(10**12)
        for data in calls:
            self.dev.rpc(
                "eth_sendTransaction",
                {
                    "from": sender,
                    "to": to,
                    "data": "0x" + data.hex(),
                    "gas": hex(100_000),
                    "maxFeePerGas": fee,
                    "maxPriorityFeePerGas": fee,
                },
            )
        self.dev.rpc("evm_setAutomine", True)
        self.dev.rpc("anvil_mine", "0x1")

    def sent(self, amounts: Sequence[str]) -> list[Refund]:
        """Return refunds whose transaction waits in the pool."""
        self.dev.rpc("evm_setAutomine", False)
        refunds = self.accepted(amounts)
        self.work(passes=1)
        assert {each.status for each in self.stored(refunds)} == {Status.BROADCAST}
        return refunds

    def next_day(self) -> None:
        """Let a day pass, for the chain and for the service."""
        self.dev.rpc("evm_increaseTime", 86_400)
        self.dev.rpc("anvil_mine", "0x1")
        self.world.clock.advance(days=1)

    def accepted(self, amounts: Sequence[str]) -> list[Refund]:
        return [
            self.world.accepted(recipient=_address(number), amount=amount)
            for number, amount in enumerate(amounts)
        ]

    def work(self, passes: int = 6) -> None:
        for _ in range(passes):
            self.world.work(after=timedelta(seconds=31))

    def work_until_nothing_is_due(self) -> None:
        self.world.clock.advance(seconds=6)
        while self.world.work(after=timedelta(0)):
            pass

    def stored(self, refunds: list[Refund]) -> list[Refund]:
        return [self.world.stored(each) for each in refunds]


@pytest.fixture
def shop(fresh_anvil: DevChain, sqlite_store: SQLStore) -> Shop:
    """A service whose network has a vault, on a chain that mines at once."""
    return Shop(fresh_anvil, sqlite_store)


@pytest.fixture
def fiat_shop(fresh_anvil: DevChain, sqlite_store: SQLStore) -> Shop:
    """The same with a token that is a proxy with a blocklist, like USDC."""
    token = coin.deploy(fresh_anvil.url, "FiatUSD")
    return Shop(replace(fresh_anvil, token=token), sqlite_store)


def test_one_signature_pays_a_hundred(shop: Shop) -> None:
    """Refunds that are due together have one nonce, and each is paid exactly once."""
    refunds = shop.accepted(["1"] * 100)
    shop.work()

    paid = shop.stored(refunds)
    assert {each.status for each in paid} == {Status.CONFIRMED}
    assert {each.nonce for each in paid} == {0}
    assert shop.vault.balance() == FUNDS - 100 * 1_000_000
    for number in range(100):
        held = coin.balance_of(shop.dev.url, shop.dev.token, _address(number))
        assert held == 1_000_000


def test_the_token_refuses_payees_after_the_signature(fiat_shop: Shop) -> None:
    """Exactly the others are paid; the refused ones fail with their reason."""
    shop, count = fiat_shop, 5
    refunds = shop.sent(["1"] * 100)
    issuer = coin.issuer(shop.dev.url)
    shop.overtake(issuer, shop.dev.token, *map(shop.blocking, range(count)))
    shop.work()

    ended = shop.stored(refunds)
    assert [each.status for each in ended] == (
        [Status.FAILED] * count + [Status.CONFIRMED] * (100 - count)
    )
    assert {each.failure_code for each in ended[:count]} == {"reverted"}
    assert [shop.received(n) for n in range(100)] == (
        [0] * count + [1_000_000] * (100 - count)
    )
    assert shop.gas_used(ended[0].tx_hash)
    assert shop.paid_by_the_books() == 1_000_000 * (100 - count)


def test_items_are_above_a_cap_that_is_lowered_after_the_signature(
    fiat_shop: Shop,
) -> None:
    """Exactly the others are paid; these wait for the cap."""
    shop, count = fiat_shop, 50
    refunds = shop.sent([*["9"] * count, *["1"] * (100 - count)])
    shop.overtake(
        shop.vault.guardian, shop.vault.address, shop.capping(PER_ITEM - 1, PER_DAY)
    )
    shop.work()

    ended = shop.stored(refunds)
    assert [each.status for each in ended] == (
        [Status.QUEUED] * count + [Status.CONFIRMED] * (100 - count)
    )
    assert {each.blocked_by for each in ended[:count]} == {"vault-limit"}
    assert shop.paid_by_the_books() == 1_000_000 * (100 - count)


def test_the_token_is_paused_after_the_signature(fiat_shop: Shop) -> None:
    """No payment is made, the transaction does not revert, and each fails."""
    shop = fiat_shop
    refunds = shop.sent(["1"] * 100)
    issuer = coin.issuer(shop.dev.url)
    shop.overtake(issuer, shop.dev.token, coin.calldata("setPaused(bool)", True))
    shop.work()

    ended = shop.stored(refunds)
    assert {each.status for each in ended} == {Status.FAILED}
    assert shop.gas_used(ended[0].tx_hash)
    assert shop.paid_by_the_books() == 0


def test_the_token_refuses_a_payee_before_the_signature(shop: Shop) -> None:
    """The item leaves the batch, and needs no place in it."""
    refunds = shop.accepted(["1"] * 3)
    shop.block(1)
    shop.work()

    ended = shop.stored(refunds)
    assert [each.status for each in ended] == [
        Status.CONFIRMED,
        Status.REFUSED,
        Status.CONFIRMED,
    ]


def test_the_cap_of_the_day_holds_refunds_back(shop: Shop) -> None:
    """What is above it waits in the queue, and is paid on the next day."""
    refunds = shop.accepted(["9"] * 60)
    shop.work()

    ended = shop.stored(refunds)
    assert [each.status for each in ended] == [Status.CONFIRMED] * 55 + [
        Status.QUEUED
    ] * 5
    assert {each.blocked_by for each in ended[55:]} == {"vault-limit"}
    shop.next_day()
    shop.work()
    assert {each.status for each in shop.stored(refunds)} == {Status.CONFIRMED}
    assert {shop.received(n) for n in range(60)} == {9_000_000}


def test_a_cap_is_lowered_after_the_signature(shop: Shop) -> None:
    """Skipped items are queued again, and paid by another transaction once."""
    refunds = shop.sent(["9"] * 20)
    lower = shop.capping(PER_ITEM, 90_000_000)
    shop.overtake(shop.vault.guardian, shop.vault.address, lower)
    shop.work()

    waiting = shop.stored(refunds)
    paid = [each.status is Status.CONFIRMED for each in waiting]
    assert paid == [True] * 10 + [False] * 10
    shop.next_day()
    shop.work()
    assert {each.status for each in shop.stored(refunds)} == {Status.CONFIRMED}
    assert {shop.received(n) for n in range(20)} == {9_000_000}
    assert len({each.nonce for each in shop.stored(refunds)}) == 2


@pytest.mark.parametrize(
    ("refunds", "per_batch"),
    [(400, 8), pytest.param(5_000, 100, marks=pytest.mark.soak)],
)
def test_a_burst_keeps_within_the_window(
    fresh_anvil: DevChain, sqlite_store: SQLStore, refunds: int, per_batch: int
) -> None:
    """
    At most 16 transactions wait for a block, and few blocks pay all.

    What waits has no nonce, and can be cancelled.
    """
    limits = {"max_in_flight": 16, "max_batch": per_batch}
    shop = Shop(fresh_anvil, sqlite_store, **limits)
    fresh_anvil.rpc("evm_setAutomine", False)
    accepted = shop.accepted(["0.01"] * refunds)
    shop.work_until_nothing_is_due()
    shop.world.cancel(accepted[-1])

    for _ in range(6):  # Blocks.
        pending = int(fresh_anvil.rpc("txpool_status")["pending"], 16)
        assert pending <= 16
        fresh_anvil.rpc("anvil_mine", "0x1")
        shop.work_until_nothing_is_due()

    ended = [each.status for each in shop.stored(accepted)]
    assert ended == [Status.CONFIRMED] * (refunds - 1) + [Status.CANCELLED]
    assert shop.vault.balance() == FUNDS - 10_000 * (refunds - 1)
