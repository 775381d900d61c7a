"""The simulated chain does what nodes do, by the words of ``signer/ports/chain.py``."""

from random import Random

import pytest
from eth_account import Account

from dev import stablecoin as coin
from signer.errors import BroadcastRejectedError, ExecutionRevertedError
from signer.ports import Call
from tests.simulation.chain import CONFIRMATIONS, DEEPEST, GWEI, SimulatedChain
from tests.simulation.node import Node
from tests.simulation.wire import TOKEN, foreign, read
from tests.support.payments import NOBODY, hash_of, signed, transfer


ACCOUNT = Account.from_key(b"\x5e" * 32)


class Behind:
    """How many heads the node that answers is behind, as a test says."""

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
def behind() -> Behind:
    """A node that is not behind, so far."""
    return Behind()


@pytest.fixture
def node(chain: SimulatedChain, behind: Behind) -> Node:
    """The port to the chain."""
    return Node(chain, behind)


def _mint_until(chain: SimulatedChain, count: int) -> None:
    for _ in range(50):
        chain.mint()
        if chain.count(ACCOUNT.address) == count:
            return
    pytest.fail("not mined")


def test_reads_what_another_library_signed() -> None:
    """Sender, hash, nonce, fees and payment are those that eth-account signed."""
    raw = transfer(ACCOUNT, TOKEN, 7, nonce=3)

    wire = read(raw)

    assert (wire.sender, wire.hash, wire.nonce) == (ACCOUNT.address, hash_of(raw), 3)
    assert (wire.max_fee, wire.tip) == (20 * GWEI, GWEI)
    assert wire.payment == (NOBODY, 7)
    assert read(signed(ACCOUNT)).payment is None


def test_mines_what_was_broadcast_once(chain: SimulatedChain, node: Node) -> None:
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


def test_a_consumed_nonce_is_too_low(chain: SimulatedChain, node: Node) -> None:
    """So it is for the same bytes, too: nodes do not say that they were mined."""
    raw = transfer(ACCOUNT, TOKEN, 7)
    node.broadcast(raw)
    _mint_until(chain, 1)

    with pytest.raises(BroadcastRejectedError) as caught:
        node.broadcast(raw)
    assert caught.value.reason == "nonce-too-low"


def test_a_replacement_pays_a_tenth_more(chain: SimulatedChain, node: Node) -> None:
    """Less is underpriced; with more of both fees, the first one is not mined."""
    prices = [
        {"maxFeePerGas": 20 * GWEI * n // 100, "maxPriorityFeePerGas": GWEI * n // 100}
        for n in (100, 109, 110)
    ]
    first, cheap, dear = (transfer(ACCOUNT, TOKEN, 7, **price) for price in prices)
    for pool in chain.pools:
        pool[ACCOUNT.address, 0] = read(first)

    with pytest.raises(BroadcastRejectedError) as caught:
        node.broadcast(cheap)
    assert caught.value.reason == "underpriced"
    node.broadcast(dear)
    assert any(pool[read(dear).slot] == read(dear) for pool in chain.pools)


def test_waits_while_the_base_fee_is_higher(chain: SimulatedChain, node: Node) -> None:
    """What offers less than the base fee stays in the pool."""
    cheap = transfer(ACCOUNT, TOKEN, 7, maxFeePerGas=GWEI, maxPriorityFeePerGas=1)
    chain.soar()
    node.broadcast(cheap)
    chain.mint()

    assert node.fees().base_fee == chain.head.tip.base_fee > GWEI
    assert node.receipt(hash_of(cheap)) is None
    assert chain.pending(ACCOUNT.address) == 1


def test_a_reorganisation_takes_receipts_away(
    chain: SimulatedChain, node: Node
) -> None:
    """Block hash, count and receipt are others, until it is mined again."""
    raw = transfer(ACCOUNT, TOKEN, 7)
    node.broadcast(raw)
    _mint_until(chain, 1)
    before = node.receipt(hash_of(raw))
    assert before is not None
    chain.loses = False
    chain.reorganise(1)
    if not chain.count(ACCOUNT.address):
        _mint_until(chain, 1)

    after = node.receipt(hash_of(raw))
    assert after is not None
    assert after.block != before.block
    assert node.block(before.block.number) != before.block


def test_what_is_final_stays(chain: SimulatedChain) -> None:
    """No reorganisation is as deep as the confirmations that are waited for."""
    for _ in range(CONFIRMATIONS):
        chain.mint()
    final = chain.head.blocks[-CONFIRMATIONS]
    chain.reorganise(DEEPEST)

    assert final in chain.head.blocks


def test_a_node_may_be_behind(
    chain: SimulatedChain, node: Node, behind: Behind
) -> None:
    """Head, counts and receipts are then what they were; blocks by number are not."""
    raw = transfer(ACCOUNT, TOKEN, 7)
    node.broadcast(raw)
    _mint_until(chain, 1)
    behind.heads = 1

    assert node.latest_block().number == chain.head.tip.block.number - 1
    assert node.transaction_count(ACCOUNT.address) == 0
    assert node.receipt(hash_of(raw)) is None
    assert node.find_transaction(ACCOUNT.address, 0) is None
    assert node.block(chain.head.tip.block.number) == chain.head.tip.block


def test_a_blocked_customer_cannot_be_paid(chain: SimulatedChain, node: Node) -> None:
    """The estimate reverts, and so does what was sent before."""
    raw = transfer(ACCOUNT, TOKEN, 7)
    data = coin.calldata("transfer(address,uint256)", NOBODY, 7)
    assert node.estimate_gas(Call(ACCOUNT.address, TOKEN, data)) > 21_000
    node.broadcast(raw)
    chain.blocklist.add(NOBODY)
    _mint_until(chain, 1)

    receipt = node.receipt(hash_of(raw))
    assert receipt is not None
    assert (receipt.succeeded, receipt.logs) == (False, ())
    with pytest.raises(ExecutionRevertedError):
        node.estimate_gas(Call(ACCOUNT.address, TOKEN, data))


def test_a_stranger_takes_the_nonce(chain: SimulatedChain, node: Node) -> None:
    """What somebody else signed with the key is mined in the place of ours."""
    node.broadcast(transfer(ACCOUNT, TOKEN, 7))
    wire = foreign(ACCOUNT.address, 0, 200 * GWEI)
    chain.intrude(wire)
    _mint_until(chain, 1)

    assert chain.strangers == (wire,)
    found = node.find_transaction(ACCOUNT.address, 0)
    assert found is not None
    assert found.tx_hash == wire.hash


def test_a_gap_hides_what_is_behind_it(chain: SimulatedChain, node: Node) -> None:
    """The count of what waits ends at the gap, and ``keep`` leaves nothing behind."""
    for nonce in (0, 2):
        node.broadcast(transfer(ACCOUNT, TOKEN, 7, nonce=nonce))
    assert node.pending_count(ACCOUNT.address) == 1
    chain.keep()

    assert [[n for _, n in pool] for pool in chain.pools] == [[0], [0]]
    chain.drop()
    assert node.pending_count(ACCOUNT.address) == 1
