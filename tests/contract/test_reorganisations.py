"""The chain client during reorganisations."""

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from signer.ports.chain import ChainClient
from tests.fixtures.chain import DevChain
from tests.support.payments import RECIPIENT, hash_of, mined, transfer
from tests.support.rpc import broadcast, receipt_of


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_a_reorganisation_removes_a_transaction(node: DevChain, depth: int) -> None:
    """Receipt, nonce and block are gone; the same bytes can be mined again (R19)."""
    client: ChainClient = JSONRPCChain([node.url], timeout=10)
    payer: LocalAccount = Account.create()
    coin.fund(node.url, payer.address, token=node.token, amount=10)
    raw = transfer(payer, node.token, 10)
    broadcast(client, raw)
    before = mined(client, raw)
    node.mine(depth - 1)
    assert client.transaction_count(payer.address) == 1

    node.reorganise(depth)

    assert receipt_of(client, hash_of(raw)) is None
    assert client.receipts([hash_of(raw), "0x" + "11" * 32]) == {}
    assert client.transaction_count(payer.address) == 0
    assert client.find_transaction(payer.address, 0) is None
    assert client.block(before.block.number) != before.block

    broadcast(client, raw)
    after = mined(client, raw)

    assert after.tx_hash == before.tx_hash
    assert client.block(after.block.number) == after.block != before.block
    assert coin.balance_of(node.url, node.token, RECIPIENT) == 10


def test_the_transaction_that_took_the_nonce_is_found(node: DevChain) -> None:
    """After a reorganisation another transaction may be canonical (R16)."""
    client: ChainClient = JSONRPCChain([node.url], timeout=10)
    payer: LocalAccount = Account.create()
    coin.fund(node.url, payer.address, token=node.token, amount=10)
    first, second = (transfer(payer, node.token, amount) for amount in (1, 2))
    broadcast(client, first)
    mined(client, first)
    node.reorganise(1)
    broadcast(client, second)
    mined(client, second)

    found = client.find_transaction(payer.address, 0)

    assert found is not None
    assert found.tx_hash == hash_of(second)
    assert receipt_of(client, hash_of(first)) is None
