"""The simulated chain behaves as ``signer/ports/chain.py`` documents nodes."""

from random import Random

import pytest
from eth_account import Account

from signer.errors import BroadcastRejectedError
from tests.simulation.chain import CONFIRMATIONS, DEEPEST, GWEI, SimulatedChain
from tests.simulation.node import Node
from tests.simulation.transaction import TOKEN, decode
from tests.support.payments import RECIPIENT, hash_of, signed, transfer


ACCOUNT = Account.from_key(b"\x5e" * 32)


class Lag:
    """The number of heads that the node lags."""

    heads = 0

    def __call__(self) -> int:
        """Return it."""
        return self.heads


@pytest.fixture
def chain() -> SimulatedChain:
    """A chain whose base fee only falls."""
    made = SimulatedChain(Random(1), lambda tx_hash: True)
    made.calm = True
    return made


@pytest.fixture
def lag() -> Lag:
    """A node that does not lag yet."""
    return Lag()


@pytest.fixture
def node(chain: SimulatedChain, lag: Lag) -> Node:
    """The client under test."""
    return Node(chain, lag)


def _mint_until(chain: SimulatedChain, count: int) -> None:
    for _ in range(50):
        chain.mine()
        if chain.count(ACCOUNT.address) == count:
            return
    pytest.fail("not mined")


def test_decodes_what_another_library_signed() -> None:
    """Sender, hash, nonce, fees and payment are those that eth-account signed."""
    raw = transfer(ACCOUNT, TOKEN, 7, nonce=3)

    transaction = decode(raw)

    assert (transaction.sender, transaction.hash, transaction.nonce) == (
        ACCOUNT.address,
        hash_of(raw),
        3,
    )
    assert (transaction.max_fee, transaction.tip) == (20 * GWEI, GWEI)
    assert transaction.payment == (RECIPIENT, 7)
    assert decode(signed(ACCOUNT)).payment is None


def test_a_transaction_is_mined_once(chain: SimulatedChain, node: Node) -> None:
    """Twice the same bytes are one transaction, with one receipt and one event."""
    raw = transfer(ACCOUNT, TOKEN, 7)
    node.broadcast(raw)
    node.broadcast(raw)

    assert node.receipt(hash_of(raw)) is None
    assert node.pending_count(ACCOUNT.address) == 1
    assert node.transaction_count(ACCOUNT.address) == 0
    _mint_until(chain, 1)
    receipt = node.receipts([hash_of(raw), "0x00"])[hash_of(raw)]
    assert receipt.succeeded
    assert int.from_bytes(receipt.logs[0].data, "big") == 7
    found = node.find_transaction(ACCOUNT.address, 0)
    assert found is not None
    assert (found.tx_hash, found.block) == (hash_of(raw), receipt.block)
    assert node.block(receipt.block.number) == receipt.block


def test_a_replacement_pays_a_tenth_more(chain: SimulatedChain, node: Node) -> None:
    """Less is underpriced; with more of both fees, the first one is not mined."""
    prices = [
        {"maxFeePerGas": 20 * GWEI * n // 100, "maxPriorityFeePerGas": GWEI * n // 100}
        for n in (100, 109, 110)
    ]
    first, cheap, dear = (transfer(ACCOUNT, TOKEN, 7, **price) for price in prices)
    for pool in chain.pools:
        pool[ACCOUNT.address, 0] = decode(first)

    with pytest.raises(BroadcastRejectedError) as caught:
        node.broadcast(cheap)
    assert caught.value.reason == "underpriced"
    node.broadcast(dear)
    assert any(pool[decode(dear).slot] == decode(dear) for pool in chain.pools)


def test_a_transaction_waits_for_a_lower_base_fee(
    chain: SimulatedChain, node: Node
) -> None:
    """It stays in the pool while it offers less than the base fee."""
    cheap = transfer(ACCOUNT, TOKEN, 7, maxFeePerGas=GWEI, maxPriorityFeePerGas=1)
    chain.spike_fee()
    node.broadcast(cheap)
    chain.mine()

    assert node.fees().base_fee == chain.head.tip.base_fee > GWEI
    assert node.receipt(hash_of(cheap)) is None
    assert chain.pending(ACCOUNT.address) == 1


def test_a_reorganisation_removes_receipts(chain: SimulatedChain, node: Node) -> None:
    """The transaction gets another block, with another hash."""
    raw = transfer(ACCOUNT, TOKEN, 7)
    node.broadcast(raw)
    _mint_until(chain, 1)
    before = node.receipt(hash_of(raw))
    assert before is not None
    chain.reorganise(1)
    if not chain.count(ACCOUNT.address):
        node.broadcast(raw)
        _mint_until(chain, 1)

    after = node.receipt(hash_of(raw))
    assert after is not None
    assert after.block != before.block
    assert node.block(before.block.number) != before.block


def test_a_confirmed_block_stays(chain: SimulatedChain) -> None:
    """No reorganisation is as deep as the required confirmations."""
    for _ in range(CONFIRMATIONS):
        chain.mine()
    final = chain.head.blocks[-CONFIRMATIONS]
    chain.reorganise(DEEPEST)

    assert final in chain.head.blocks


def test_a_node_may_lag(chain: SimulatedChain, node: Node, lag: Lag) -> None:
    """Head, counts and receipts are old then; blocks by number are not."""
    raw = transfer(ACCOUNT, TOKEN, 7)
    node.broadcast(raw)
    _mint_until(chain, 1)
    lag.heads = 1

    assert node.latest_block().number == chain.head.tip.block.number - 1
    assert node.transaction_count(ACCOUNT.address) == 0
    assert node.receipt(hash_of(raw)) is None
    assert node.find_transaction(ACCOUNT.address, 0) is None
    assert node.block(chain.head.tip.block.number) == chain.head.tip.block


def test_a_gap_hides_later_transactions(chain: SimulatedChain, node: Node) -> None:
    """The pending count ends at the gap; hidden transactions may come back."""
    for nonce in range(20):
        node.broadcast(transfer(ACCOUNT, TOKEN, 7, nonce=nonce))
    random = Random(1)
    chain.hide(lambda slot: slot[1] == 0, random)

    left = {n for pool in chain.pools for _, n in pool}
    assert {0} < left < set(range(20))
    assert node.pending_count(ACCOUNT.address) < max(left)
    chain.reveal(random)
    assert {n for pool in chain.pools for _, n in pool} > left
