"""The chain's past over JSON-RPC: ranges that are split, costs, and nodes that lie."""

from typing import Any

import pytest
from eth_account import Account

from backends.json_rpc.history import JSONRPCHistory
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.errors import ChainError, ChainUnavailableError
from signer.ports.chain import Block, ChainHistory, Log, Settled, TokenTransfer
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Altered, Computed, Error, Result
from tests.support.payments import RECIPIENT, hash_of, mined, signed, transfer
from tests.support.rpc import Three, script_all


TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
WALLET = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
OTHER = "0x00000000000000000000000000000000DeaDBeef"
EVENT = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
HASH = "0x" + "ab" * 32


def _topic(address: str) -> str:
    return "0x" + "0" * 24 + address[2:].lower()


def _log(block: int, *, index: int = 0, amount: int = 5, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "address": TOKEN.lower(),
        "topics": [EVENT, _topic(WALLET), _topic(OTHER)],
        "data": f"0x{amount:064x}",
        "blockNumber": hex(block),
        "blockHash": f"0x{block:064x}",
        "transactionHash": HASH,
        "logIndex": hex(index),
        "removed": False,
    }
    return {**given, **changes}


def _history(*nodes: FakeNode, timeout: float = 5.0) -> JSONRPCHistory:
    return JSONRPCHistory([node.url for node in nodes], timeout)


def _transfers(
    history: ChainHistory, first: int = 1, last: int = 9
) -> list[TokenTransfer]:
    return list(history.transfers([TOKEN], [WALLET], first, last))


def _limited(limit: int, asked: list[tuple[int, int]]) -> Computed:
    """Return a log per block, or an invalid result for more than *limit* blocks."""

    def compute(params: list[Any]) -> object:
        first, last = (int(params[0][name], 16) for name in ("fromBlock", "toBlock"))
        asked.append((first, last))
        if last - first >= limit:
            return "query returned more than 10000 results"
        return [_log(block) for block in range(first, last + 1)]

    return Computed(compute)


def test_transfers_are_parsed(fake_node: FakeNode) -> None:
    """From and to the wallets, each once, in the chain's order."""
    fake_node.script("eth_getLogs", Result([_log(3), _log(2, index=7)]))

    assert _transfers(_history(fake_node)) == [
        TokenTransfer(TOKEN, WALLET, OTHER, 5, HASH, Block(2, f"0x{2:064x}"), 7),
        TokenTransfer(TOKEN, WALLET, OTHER, 5, HASH, Block(3, f"0x{3:064x}"), 0),
    ]
    outgoing, incoming = (each[0] for each in fake_node.calls("eth_getLogs"))
    limits = {"address": [TOKEN], "fromBlock": "0x1", "toBlock": "0x9"}
    assert outgoing == {**limits, "topics": [EVENT, [_topic(WALLET)]]}
    assert incoming == {**limits, "topics": [EVENT, None, [_topic(WALLET)]]}


@pytest.mark.parametrize(("tokens", "wallets"), [([], [WALLET]), ([TOKEN], [])])
def test_without_tokens_or_wallets_nothing_is_asked(
    fake_node: FakeNode, tokens: list[str], wallets: list[str]
) -> None:
    """An empty filter would mean every contract of the chain."""
    assert not _history(fake_node).transfers(tokens, wallets, 1, 9)
    assert fake_node.requests == []


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_a_range_is_halved_until_the_node_returns_it(
    fake_node: FakeNode, limit: int
) -> None:
    """Later ranges are as short at once; every block is read once."""
    asked: list[tuple[int, int]] = []
    fake_node.script("eth_getLogs", _limited(limit, asked))
    history = _history(fake_node)

    found = _transfers(history, 1, 7)
    asked.clear()
    again = _transfers(history, 8, 12)

    assert [each.block.number for each in found] == list(range(1, 8))
    assert [each.block.number for each in again] == list(range(8, 13))
    assert all(last - first < limit for first, last in asked)


@pytest.mark.parametrize("code", [-32005, -32602, -32000])
def test_a_node_that_answers_no_range(fake_node: FakeNode, code: int) -> None:
    """At one block, its error is raised."""
    fake_node.script("eth_getLogs", Error(code, "query returned more than 10 results"))

    with pytest.raises(ChainError):
        _transfers(_history(fake_node))
    assert len(fake_node.calls("eth_getLogs")) == 4


@pytest.mark.parametrize(
    "log",
    [
        _log(2, address=OTHER),
        _log(2, topics=[EVENT, _topic(OTHER), _topic(OTHER)]),
        _log(10),
        _log(2, removed=True),
        _log(2, data="0x05"),
        _log(2, topics=[EVENT, _topic(WALLET)]),
        _log(2, topics=["0x" + "00" * 32, _topic(WALLET), _topic(OTHER)]),
        {},
    ],
)
def test_an_event_that_was_not_asked_for(fake_node: FakeNode, log: object) -> None:
    """The response cannot be true, or is of a removed block."""
    fake_node.script("eth_getLogs", Result([log]))

    with pytest.raises(ChainUnavailableError):
        _transfers(_history(fake_node), 1, 9)


def test_one_lying_node_is_outvoted(three_nodes: Three) -> None:
    """It can neither hide nor invent a transfer, and is distrusted."""
    honest = [_log(2), _log(3)]
    lies: list[list[object]] = [[], [_log(2)], [_log(2), _log(3, amount=6)]]
    for lie in lies:
        replies = [Result(lie), Result(honest), Result(honest)]
        script_all(three_nodes, "eth_getLogs", *replies)

        assert len(_transfers(_history(*three_nodes))) == 2


def test_nodes_that_disagree(fake_node: FakeNode, other_node: FakeNode) -> None:
    """With two nodes, both must return the same transfers."""
    fake_node.script("eth_getLogs", Result([_log(2)]))
    other_node.script("eth_getLogs", Result([]))

    with pytest.raises(ChainUnavailableError, match="do not agree on the transfers"):
        _transfers(_history(fake_node, other_node))


TRANSACTION = {
    "hash": HASH,
    "from": WALLET.lower(),
    "to": TOKEN.lower(),
    "nonce": "0x7",
    "gas": "0xffff",
    "value": "0x9",
    "input": "0x0102",
    "blockNumber": "0x2",
    "blockHash": f"0x{2:064x}",
}
RECEIPT = {
    "transactionHash": HASH,
    "from": WALLET.lower(),
    "blockNumber": "0x2",
    "blockHash": f"0x{2:064x}",
    "status": "0x1",
    "gasUsed": "0x64",
    "effectiveGasPrice": "0xa",
    "logs": [],
}


def _settled(node: FakeNode, receipt: object = RECEIPT) -> Settled | None:
    node.script("eth_getTransactionByHash", Result(TRANSACTION))
    node.script("eth_getTransactionReceipt", Result(receipt))
    return _history(node).settled([HASH]).get(HASH)


def test_the_cost_of_a_transaction(fake_node: FakeNode) -> None:
    assert _settled(fake_node) == Settled(
        tx_hash=HASH,
        sender=WALLET,
        nonce=7,
        to=TOKEN,
        value=9,
        data=b"\x01\x02",
        block=Block(2, f"0x{2:064x}"),
        succeeded=True,
        execution_fee=1000,
        fee=1000,
    )


def test_rollups_charge_more_than_gas(fake_node: FakeNode) -> None:
    """The OP Stack adds the data's fee and its operator's, in millionths of gas."""
    rollup = {
        "l1Fee": "0x5",
        "operatorFeeScalar": hex(20_000),
        "operatorFeeConstant": "0x3",
    }
    settled = _settled(fake_node, RECEIPT | rollup)

    assert settled is not None
    assert settled.execution_fee == 1000
    assert settled.fee == 1000 + 5 + 100 * 20_000 // 10**6 + 3


@pytest.mark.parametrize("receipt", [None, RECEIPT | {"blockHash": None}])
def test_a_transaction_that_is_not_mined_has_no_cost(
    fake_node: FakeNode, receipt: object
) -> None:
    assert _settled(fake_node, receipt) is None


@pytest.mark.parametrize(
    "changes",
    [{"blockHash": HASH}, {"effectiveGasPrice": None}, {"transactionHash": EVENT}],
)
def test_a_malformed_receipt(fake_node: FakeNode, changes: dict[str, Any]) -> None:
    with pytest.raises(ChainUnavailableError):
        _settled(fake_node, RECEIPT | changes)


def test_many_transactions_share_an_exchange(fake_node: FakeNode) -> None:
    """A transaction takes two requests; 60 of them take three batches."""
    hashes = [f"0x{number:064x}" for number in range(60)]
    for method in ("eth_getTransactionByHash", "eth_getTransactionReceipt"):
        fake_node.script(method, Result(None))

    assert _history(fake_node).settled([*hashes, *hashes]) == {}
    assert fake_node.batches == [50, 50, 20]


def test_headers_have_times(fake_node: FakeNode) -> None:
    def compute(params: list[Any]) -> object:
        return {"number": params[0], "hash": HASH, "timestamp": "0x64"}

    fake_node.script("eth_getBlockByNumber", Computed(compute))

    found = _history(fake_node).headers([3, 5])

    assert [(each.block, each.timestamp) for each in found] == [
        (Block(3, HASH), 100),
        (Block(5, HASH), 100),
    ]


@pytest.mark.parametrize(
    "result", [None, {"number": "0x4", "hash": HASH, "timestamp": "0x1"}]
)
def test_a_block_that_no_node_has(fake_node: FakeNode, result: object) -> None:
    fake_node.script("eth_getBlockByNumber", Result(result))

    with pytest.raises(ChainUnavailableError):
        _history(fake_node).headers([3])


def test_balances_of_a_pruned_state(fake_node: FakeNode) -> None:
    """The error is the one of any node that cannot answer."""
    for method in ("eth_getBalance", "eth_call"):
        fake_node.script(method, Error(-32000, "missing trie node"))
    history = _history(fake_node)

    with pytest.raises(ChainUnavailableError):
        history.coin_balance(WALLET, 3)
    with pytest.raises(ChainUnavailableError):
        history.token_balance(TOKEN, WALLET, 3)


def test_nodes_must_agree_on_balances(three_nodes: Three) -> None:
    script_all(three_nodes, "eth_getBalance", *(Result(hex(n)) for n in (1, 2, 3)))

    with pytest.raises(ChainUnavailableError, match="do not agree on a balance"):
        _history(*three_nodes).coin_balance(WALLET, 3)


def test_a_balance_has_32_bytes(fake_node: FakeNode) -> None:
    """Before a contract exists, the call returns nothing, and it held nothing."""
    fake_node.script("eth_call", Result("0x"), Result("0x01"))
    history = _history(fake_node)

    assert history.token_balance(TOKEN, WALLET, 3) == 0
    with pytest.raises(ChainUnavailableError):
        history.token_balance(TOKEN, WALLET, 3)


@pytest.fixture
def history(dev_chain: DevChain) -> ChainHistory:
    """The history of each chain in turn; mypy verifies the port here."""
    fits: ChainHistory = JSONRPCHistory([dev_chain.url], timeout=10, chain_id=CHAIN_ID)
    return fits


def test_a_real_chain(dev_chain: DevChain, history: JSONRPCHistory) -> None:
    """A transfer, its cost, and the balances before and after it."""
    account = Account.create()
    coin.fund(dev_chain.url, account.address, token=dev_chain.token, amount=100)
    raw = transfer(account, dev_chain.token, 30)
    dev_chain.rpc("eth_sendRawTransaction", f"0x{raw.hex()}")
    receipt = mined(history, raw)
    tx_hash, number = hash_of(raw), receipt.block.number

    settled = history.settled([tx_hash])[tx_hash]
    funded, paid = history.transfers(
        [dev_chain.token], [account.address], number - 1, number
    )
    (header,) = history.headers([number])

    assert header.block == settled.block == receipt.block
    assert header.timestamp > 0
    assert (funded.recipient, funded.amount) == (account.address, 100)
    assert (paid.sender, paid.recipient, paid.amount) == (
        account.address,
        RECIPIENT,
        30,
    )
    assert paid.tx_hash == settled.tx_hash
    assert (settled.sender, settled.nonce, settled.value) == (account.address, 0, 0)
    before, after = (
        history.token_balance(dev_chain.token, account.address, at)
        for at in (number - 1, number)
    )
    coins = [history.coin_balance(account.address, at) for at in (number - 1, number)]
    assert (before, after) == (100, 70)
    assert coins[0] - coins[1] == settled.fee > 0


def test_a_failed_transaction_costs_its_fee(
    dev_chain: DevChain, history: JSONRPCHistory
) -> None:
    account = Account.create()
    coin.fund(dev_chain.url, account.address)
    raw = transfer(account, dev_chain.token, 30)  # It has no tokens.
    dev_chain.rpc("eth_sendRawTransaction", f"0x{raw.hex()}")
    number = mined(history, raw).block.number

    settled = history.settled([hash_of(raw)])[hash_of(raw)]
    coins = [history.coin_balance(account.address, at) for at in (number - 1, number)]

    assert not settled.succeeded
    assert coins[0] - coins[1] == settled.fee > 0
    assert not history.transfers([dev_chain.token], [account.address], 1, number)


def test_a_node_that_hides_a_transaction(
    fresh_anvil: DevChain, fault_proxy: FakeNode
) -> None:
    """Two nodes: what one of them does not have counts as not mined."""
    account = Account.create()
    coin.fund(fresh_anvil.url, account.address)
    raw = signed(account)
    fresh_anvil.rpc("eth_sendRawTransaction", f"0x{raw.hex()}")
    fault_proxy.script("eth_getTransactionReceipt", Altered(lambda _, __: None))
    history = JSONRPCHistory([fresh_anvil.url, fault_proxy.url], timeout=5)
    mined(JSONRPCHistory([fresh_anvil.url], timeout=5), raw)

    assert history.settled([hash_of(raw)]) == {}


TOPIC = bytes.fromhex("ab" * 32)
_PLACES: dict[str, Any] = {"topics": ["0x" + "ab" * 32], "data": "0x01"}


def test_events_are_in_the_order_of_the_chain(fake_node: FakeNode) -> None:
    """Each once, although a node may repeat one."""
    logs = [_log(3, **_PLACES), _log(2, index=7, **_PLACES), _log(3, **_PLACES)]
    fake_node.script("eth_getLogs", Result(logs))
    found = _history(fake_node).events(TOKEN, TOPIC, 1, 9)

    assert found == [Log(TOKEN, (TOPIC,), b"\x01")] * 2
    (asked,) = (each[0] for each in fake_node.calls("eth_getLogs"))
    limits = {"fromBlock": "0x1", "toBlock": "0x9"}
    assert asked == {**limits, "address": TOKEN, "topics": [f"0x{TOPIC.hex()}"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": WALLET.lower()},
        {"topics": [EVENT]},
        {"topics": []},
        {"blockNumber": "0xa"},
        {"removed": True},
    ],
)
def test_events_of_others_are_refused(
    fake_node: FakeNode, wrong: dict[str, Any]
) -> None:
    log = _log(3, **{**_PLACES, **wrong})
    fake_node.script("eth_getLogs", Result([log]))

    with pytest.raises(ChainUnavailableError):
        _history(fake_node).events(TOKEN, TOPIC, 1, 9)
