"""Refunds over three nodes of anvil's chain, of which one lies all the time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from eth_utils.crypto import keccak

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from signer.chain.fees import quote_fees
from signer.config.networks import Network
from signer.model.refund import Refund, Status
from signer.model.transaction import SignedTransaction
from signer.ports.ledger import Ledger
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Altered, Computed, Error, Reply, Result
from tests.support.refunds import AMOUNT, CUSTOMER, World


GWEI = 10**9
BASE_FEE = 10 * GWEI
PASSES = 20
POSITIONS = (0, 1, 2)
_TRIES = 5
UNMINED = (Status.SIGNED, Status.BROADCAST)

_TOO_POOR = Error(-32000, "insufficient funds for gas * price + value")
_REVERT = Error(3, "execution reverted", "0x75e91ce7")
_OTHER_HASH = "0x" + "cd" * 32

Params = list[Any]


def _head(**changes: object) -> Mapping[str, Reply]:

    def alter(block: Any, params: Params) -> object:
        return block | changes if params[0] == "latest" else block

    number = changes.get("number")
    heights: dict[str, Reply] = {"eth_blockNumber": Result(number)} if number else {}
    return {"eth_getBlockByNumber": Altered(alter), **heights}


def _without_base_fee(block: Any, params: Params) -> object:
    return {name: block[name] for name in block if name != "baseFeePerGas"}


def _nonce(difference: int) -> Mapping[str, Reply]:
    def alter(count: Any, params: Params) -> object:
        return hex(max(int(count, 16) + difference, 0))

    return {"eth_getTransactionCount": Altered(alter)}


def _receipt(params: Params) -> object:
    """Return an invented receipt of a failed transaction."""
    return {
        "transactionHash": params[0],
        "blockHash": _OTHER_HASH,
        "blockNumber": "0x1",
        "status": "0x0",
        "logs": [],
    }


def _with_another_log(receipt: Any, params: Params) -> object:
    first = receipt["logs"][0]
    return receipt | {"logs": [first, first | {"data": "0x" + "ff" * 32}]}


def _all_invented(receipts: Any, params: Params) -> object:
    return [_receipt([each["transactionHash"]]) for each in receipts]


def _all_with_another_log(receipts: Any, params: Params) -> object:
    return [_with_another_log(each, params) for each in receipts]


def _hash_of(params: Params) -> object:
    return "0x" + keccak(hexstr=params[0]).hex()


_BASE_FEE: Mapping[str, Reply] = _head(baseFeePerGas=hex(30_000 * GWEI))
_TIP: Mapping[str, Reply] = {"eth_maxPriorityFeePerGas": Result(hex(10_000 * GWEI))}
_GAS: Mapping[str, Reply] = {"eth_estimateGas": Result(hex(16_000_000))}
_EMPTY: Mapping[str, Reply] = {
    "eth_getBalance": Result("0x0"),
    "eth_call": Result("0x" + "00" * 32),
}
_DROPPED: Mapping[str, Reply] = {
    "eth_sendRawTransaction": Error(-32000, "already known")
}

LIES: Mapping[str, Mapping[str, Reply]] = {
    "base-fee-hidden": {"eth_getBlockByNumber": Altered(_without_base_fee)},
    "base-fee-0": _head(baseFeePerGas="0x0"),
    "base-fee-30000-gwei": _BASE_FEE,
    "tip-10000-gwei": _TIP,
    "tip-0": {"eth_maxPriorityFeePerGas": Result("0x0")},
    "gas-21500": {"eth_estimateGas": Result(hex(21_500))},
    "gas-16000000": _GAS,
    "reverts": {"eth_estimateGas": _REVERT, "eth_call": _REVERT},
    "nonce-too-high": _nonce(1000),
    "nonce-one-too-high": _nonce(1),
    "nonce-too-low": _nonce(-1000),
    "head-ahead": _head(number=hex(10**6), hash=_OTHER_HASH),
    "head-too-low": _head(number="0x1"),
    "other-blocks": {
        "eth_getBlockByNumber": Altered(lambda block, _: block | {"hash": _OTHER_HASH})
    },
    "receipt-invented": {"eth_getTransactionReceipt": Computed(_receipt)},
    "receipt-missing": {
        "eth_getTransactionReceipt": Result(None),
        "eth_getTransactionByHash": Result(None),
    },
    "log-invented": {"eth_getTransactionReceipt": Altered(_with_another_log)},
    "block-receipts-invented": {"eth_getBlockReceipts": Altered(_all_invented)},
    "block-receipts-missing": {"eth_getBlockReceipts": Result([])},
    "block-logs-invented": {"eth_getBlockReceipts": Altered(_all_with_another_log)},
    "empty-wallet": _EMPTY,
    "no-contract": {"eth_getCode": Result("0x")},
    "already-known": _DROPPED,
    "accepted-and-dropped": {"eth_sendRawTransaction": Computed(_hash_of)},
    "rejected-funds": {"eth_sendRawTransaction": _TOO_POOR},
    "rejected-fee": {
        "eth_sendRawTransaction": Error(-32000, "transaction underpriced")
    },
    "rejected-nonce": {"eth_sendRawTransaction": Error(-32000, "nonce too low")},
    "other-chain": {"eth_chainId": Result("0x1")},
    "many-at-once": {
        **_BASE_FEE,
        **_TIP,
        **_GAS,
        **_EMPTY,
        **_DROPPED,
        **_nonce(1000),
        "eth_getTransactionReceipt": Computed(_receipt),
    },
}
"""The lies; each lasts as long as its replies are scripted."""


@dataclass(frozen=True)
class Costs:
    """The highest max fee, gas limit and paid wei of some refunds."""

    max_fee: int
    gas_limit: int
    paid: int

    def ratio(self, honest: "Costs") -> float:
        """Return the highest ratio of one of them to the honest one."""
        return max(
            self.max_fee / honest.max_fee,
            self.gas_limit / honest.gas_limit,
            self.paid / honest.paid,
        )


class Laboratory:
    """A service whose three nodes are anvil, twice, and a proxy of it that may lie."""

    def __init__(self, store: Ledger, dev: DevChain, liar: FakeNode) -> None:
        self._dev = dev
        self._liar = liar
        self.world = World(store, network=_network(dev))
        wallet = self.world.signer.address
        coin.fund(dev.url, wallet, token=dev.token, amount=10**6 * AMOUNT)

    def pay(self, lie: str | None, position: int, count: int = 1) -> Costs:
        """Pay *count* refunds while the node at *position* answers with *lie*."""
        self._liar.forget()
        for method, reply in LIES[lie].items() if lie else ():
            self._liar.script(method, reply)
        urls = [self._dev.url, self._dev.url]
        urls.insert(position, self._liar.url)
        # A new client trusts all nodes: the liar is not skipped.
        self.world.client = JSONRPCChain(urls, 5, self.world.network.chain_id)
        self._mine()
        refunds = [self.world.accepted() for _ in range(count)]
        finished = self.finish(refunds)
        assert [each.status for each in finished] == [Status.CONFIRMED] * count, lie
        attempts = [self.world.store.transactions(each.id) for each in refunds]
        assert [len(each) for each in attempts] == [1] * count, lie
        return self._costs([each[0] for each in attempts])

    def only(self, node: FakeNode, max_gas: int) -> None:
        """Use *node* alone, and leave the wallet coin for a few refunds."""
        self.world.client = JSONRPCChain([node.url], 5, self.world.network.chain_id)
        self.world.change_token(max_gas=max_gas)
        wei = 10**5 * BASE_FEE * 10
        self._dev.rpc("anvil_setBalance", self.world.signer.address, hex(wei))

    def honest_fee(self) -> int:
        """Return the max fee that anvil's own answers lead to."""
        self._mine()
        chain = self.world.chains["local"]
        return quote_fees(chain.client.fees(), chain.network)[0]

    def finish(self, refunds: Sequence[Refund]) -> Sequence[Refund]:
        """Work and mine until all *refunds* are final."""
        for _ in range(PASSES):
            self.world.work(after=timedelta(seconds=31))
            self._mine()
            found = [self.world.stored(refund) for refund in refunds]
            if all(refund.status.is_final for refund in found):
                break
        return found

    def _mine(self) -> None:
        """Add a block; the base fee is always the same."""
        self._dev.rpc("anvil_setNextBlockBaseFeePerGas", hex(BASE_FEE))
        self._dev.rpc("evm_mine")

    def _costs(self, sent: Sequence[SignedTransaction]) -> Costs:
        receipts = [
            self._dev.rpc("eth_getTransactionReceipt", each.tx_hash) for each in sent
        ]
        return Costs(
            max(each.max_fee_per_gas for each in sent),
            max(each.gas_limit for each in sent),
            max(
                int(each["gasUsed"], 16) * int(each["effectiveGasPrice"], 16)
                for each in receipts
            ),
        )

    def require_sound(self, paid: int) -> None:
        """Require that *paid* refunds were paid once, and that nothing is jammed."""
        store, network = self.world.store, self.world.network
        wallet = store.wallet(network.chain_id, self.world.signer.address)
        assert wallet is not None
        assert (wallet.is_paused, wallet.next_nonce) == (False, paid)
        held = coin.balance_of(self._dev.url, self._dev.token, CUSTOMER)
        assert held == paid * AMOUNT
        count = self._dev.rpc("eth_getTransactionCount", wallet.sender, "pending")
        assert int(count, 16) == paid


def _network(dev: DevChain, **changes: object) -> Network:
    token = {"address": dev.token, "decimals": 6, "max_amount": "1000"}
    given: dict[str, object] = {
        "chain_id": 31337,
        "rpc_urls": [dev.url],
        "confirmations": 2,
        "tokens": {"TUSD": token},
    }
    return Network.model_validate(given | changes)


@pytest.fixture
def liar(fresh_anvil: DevChain) -> Iterator[FakeNode]:
    """A proxy of anvil that answers with the lies of the test."""
    with FakeNode(fresh_anvil.url) as node:
        yield node
    assert node.violations == []


@pytest.fixture
def laboratory(
    sqlite_store: Ledger, fresh_anvil: DevChain, liar: FakeNode
) -> Laboratory:
    """The service, its wallet funded."""
    return Laboratory(sqlite_store, fresh_anvil, liar)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(
    ("each_position", "count"),
    [(False, 1), pytest.param(True, 8, marks=pytest.mark.soak)],
    ids=["each-lie-once", "each-lie-everywhere"],
)
def test_one_liar_changes_nothing(
    laboratory: Laboratory, position: int, each_position: bool, count: int
) -> None:
    """
    All refunds are confirmed at honest cost with one transaction each; none is jammed.

    The short version uses each lie at one of the three positions.  The long one pays
    over 200 refunds per position.
    """
    lies = list(LIES) if each_position else list(LIES)[position :: len(POSITIONS)]
    laboratory.pay(None, position)  # The first transfer to an address costs more.
    honest = laboratory.pay(None, position)
    ratios = {lie: laboratory.pay(lie, position, count).ratio(honest) for lie in lies}

    assert {lie: ratio for lie, ratio in ratios.items() if ratio > 1.5} == {}
    laboratory.require_sound(2 + count * len(lies))


@pytest.mark.parametrize("position", POSITIONS)
def test_one_liar_changes_no_receipt_of_a_block(
    laboratory: Laboratory, fresh_anvil: DevChain, liar: FakeNode, position: int
) -> None:
    """Several refunds share a block, whose receipts come in one response."""
    laboratory.pay(None, position)
    fresh_anvil.rpc("evm_setAutomine", False)
    paid = 1
    for lie in (lie for lie in LIES if lie.startswith("block-")):
        liar.requests.clear()
        # A request that has not begun when two nodes agree is not sent.
        for _ in range(_TRIES):
            laboratory.pay(lie, position, 4)
            paid += 4
            if liar.calls("eth_getBlockReceipts"):
                break
        assert liar.calls("eth_getBlockReceipts"), lie
    laboratory.require_sound(paid)


@pytest.mark.parametrize(
    ("lie", "max_gas"),
    [
        (LIES["gas-16000000"], 16_000_000),
        (LIES["base-fee-30000-gwei"], 2_000_000),
        ({**LIES["base-fee-0"], **LIES["tip-0"]}, 2_000_000),
    ],
    ids=["gas", "high-fee", "no-fee"],
)
def test_a_single_liar_jams_no_nonce(
    laboratory: Laboratory, liar: FakeNode, lie: Mapping[str, Reply], max_gas: int
) -> None:
    """
    What a network with one node signs at absurd costs is replaced when it is honest.

    The wallet cannot pay for the transaction, or it offers nothing, and higher nonces
    wait for it.
    """
    world = laboratory.world
    laboratory.only(liar, max_gas=max_gas)
    honest = laboratory.honest_fee()
    for method, reply in lie.items():
        liar.script(method, reply)
    head = world.accepted()
    world.work()
    jammed = world.stored(head)
    assert (jammed.status in UNMINED, jammed.nonce) == (True, 0)
    liar.forget()

    finished = laboratory.finish([jammed, world.accepted()])

    assert [each.status for each in finished] == [Status.CONFIRMED] * 2
    first, second = world.store.transactions(head.id)
    assert (first.nonce, second.nonce) == (0, 0)
    assert second.gas_limit < 10**5
    assert second.max_fee_per_gas <= honest
    laboratory.require_sound(2)
