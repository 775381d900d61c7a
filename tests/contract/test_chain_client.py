"""
Contract of chain clients on real chains: balances, fees and refused transactions.

``test_chain_client_nonces`` also runs on the chain in memory; ``test_weird_tokens`` has
transfers and reverts.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import bitcurve
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.chain.erc20 import encode_transfer
from signer.crypto.transactions import LegacyTransaction
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
)
from signer.model.audit_record import Operation
from signer.ports.chain import Call, ChainClient, Fees, FinalityTag
from tests.fixtures.chain import ON_GETH, ON_HARDHAT, DevChain
from tests.support.devices import honest, signer_over
from tests.support.payments import RECIPIENT, hash_of, mined, signed
from tests.support.rpc import broadcast
from tests.support.signings import Unchecked


@pytest.fixture
def client(chain: JSONRPCChain) -> ChainClient:
    """The client under test, as its port."""
    return chain


@pytest.fixture
def payer(dev_chain: DevChain) -> LocalAccount:
    """A throw-away account with gas."""
    account: LocalAccount = Account.create()
    coin.fund(dev_chain.url, account.address)
    return account


def test_balances_are_in_wei(client: ChainClient, dev_chain: DevChain) -> None:
    """A balance is an integer of wei; that of an unused address is zero."""
    address = Account.create().address

    assert client.balance(address) == 0

    coin.fund(dev_chain.url, address, wei=123_456_789_012_345_678)

    assert client.balance(address) == 123_456_789_012_345_678


def test_a_transaction_that_makes_a_contract_has_no_recipient(
    client: ChainClient, dev_chain: DevChain
) -> None:
    """A deployment is found like any other use of the key."""
    count = client.transaction_count(dev_chain.deployer)
    coin.deploy(dev_chain.url)

    found = client.find_transaction(dev_chain.deployer, count)

    assert found is not None
    assert found.to is None


def test_fees_are_base_fee_and_tip(client: ChainClient, dev_chain: DevChain) -> None:
    """The fees are the latest block's base fee and a tip that the node suggests."""
    latest = dev_chain.rpc("eth_getBlockByNumber", "latest", False)

    fees = client.fees()

    assert fees.base_fee is not None
    assert fees.base_fee == int(latest["baseFeePerGas"], 16) > 0
    tip = int(dev_chain.rpc("eth_maxPriorityFeePerGas"), 16)
    assert fees.priority_fee == tip > 0


def test_a_preflight_estimates_each_call(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount
) -> None:
    """A call that reverts does not affect the other estimates."""
    coin.fund(dev_chain.url, payer.address, token=dev_chain.token, amount=10)
    calls = [
        Call(payer.address, dev_chain.token, encode_transfer(RECIPIENT, amount))
        for amount in (1, 10**9, 2)
    ]

    preflight = client.preflight(payer.address, calls)

    assert preflight.pending_count == 0
    assert preflight.fees == client.fees()
    assert preflight.estimates[::2] == tuple(map(client.estimate_gas, calls[::2]))
    assert isinstance(preflight.estimates[1], ExecutionRevertedError)


def test_a_preflight_runs_calls_that_have_a_gas_limit(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount
) -> None:
    """It shows whether the limit suffices, and whether the contract refuses a call."""
    coin.fund(dev_chain.url, payer.address, token=dev_chain.token, amount=10)
    data = encode_transfer(RECIPIENT, 1)
    call = Call(payer.address, dev_chain.token, data)
    needed = client.estimate_gas(call)
    too_much = replace(call, data=encode_transfer(RECIPIENT, 10**9))
    limits = (needed, 10 * needed, needed // 2, 21_000, 1)
    calls = [replace(call, gas=gas) for gas in limits]

    found = client.preflight(payer.address, [*calls, replace(too_much, gas=needed)])

    assert found.estimates[:2] == limits[:2]
    assert all(isinstance(each, ChainError) for each in found.estimates[2:])
    for without_gas in (found.estimates[2], found.estimates[5]):
        assert isinstance(without_gas, ExecutionRevertedError)


@pytest.mark.parametrize(
    "dev_chain", ["fresh_anvil", ON_GETH, ON_HARDHAT], indirect=True
)
def test_calls_that_share_a_block_leave_too_little_for_the_last(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount
) -> None:
    """
    Several calls with a gas limit may be run one after another, from a contract too.

    So only their success counts.  One that runs out of gas or reverts changes nothing
    for the others.
    """
    holder = coin.deploy(dev_chain.url)  # A contract, as a vault is.
    mint = "mint(address,uint256)"
    coin.administer(dev_chain.url, dev_chain.token, mint, holder, 10)
    data = encode_transfer(RECIPIENT, 3)
    call = Call(holder, dev_chain.token, data, gas=100_000)
    burning = replace(call, gas=22_000)
    reverting = replace(call, data=encode_transfer(RECIPIENT, 10**9))
    asked = [call, burning, reverting, call, call, call]

    *found, last = client.preflight(payer.address, asked).estimates

    assert (found[0], *found[3:]) == (100_000, 100_000, 100_000)
    assert all(isinstance(each, ExecutionRevertedError) for each in found[1:3])
    if not isinstance(last, ExecutionRevertedError):
        assert last == 100_000  # A node without ``eth_simulateV1``.
    (alone,) = client.estimate_all([replace(call, gas=None)])
    assert isinstance(alone, int)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": 10**24}, "insufficient-funds"),
        ({"maxFeePerGas": 1, "maxPriorityFeePerGas": 0}, "underpriced"),
        ({"chainId": 1}, "other"),
        ({"gas": 20_000}, "other"),
    ],
)
def test_a_refused_transaction_has_a_reason(
    client: ChainClient, payer: LocalAccount, changes: dict[str, int], reason: str
) -> None:
    """The refusal of a node has a reason, and changes nothing."""
    with pytest.raises(BroadcastRejectedError) as caught:
        broadcast(client, signed(payer, **changes))

    assert caught.value.reason == reason
    assert client.transaction_count(payer.address) == 0


def test_malformed_bytes_are_refused(client: ChainClient) -> None:
    with pytest.raises(BroadcastRejectedError) as caught:
        broadcast(client, b"\x02garbage")

    assert caught.value.reason == "other"


def test_threads_share_a_client(client: ChainClient) -> None:
    """Sixteen threads that ask at the same time all get the right answer."""
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: client.chain_id(), range(80)))

    assert answers == [CHAIN_ID] * 80


def test_a_chain_without_base_fee_has_a_gas_price(legacy_anvil: DevChain) -> None:
    client: ChainClient = JSONRPCChain([legacy_anvil.url], timeout=10)
    price = int(legacy_anvil.rpc("eth_gasPrice"), 16)

    assert client.fees() == Fees(base_fee=None, priority_fee=price)


def test_a_legacy_transaction_is_mined(legacy_anvil: DevChain) -> None:
    """An EIP-155 transaction pays on a chain before EIP-1559."""
    client: ChainClient = JSONRPCChain([legacy_anvil.url], timeout=10)
    key = bitcurve.PrivateKey()
    signer = signer_over(honest(key))
    coin.fund(legacy_anvil.url, signer.address, token=legacy_anvil.token, amount=5)
    transaction = LegacyTransaction(
        chain_id=CHAIN_ID,
        nonce=0,
        gas_price=client.fees().priority_fee,
        gas=100_000,
        to=legacy_anvil.token,
        value=0,
        data=encode_transfer(RECIPIENT, 5),
    )
    raw = transaction.serialise(
        signer.sign_digest(
            transaction.signing_digest(), Unchecked(Operation.TRANSACTION_SIGNING)
        )
    )

    broadcast(client, raw)

    assert mined(client, raw).succeeded
    assert coin.balance_of(legacy_anvil.url, legacy_anvil.token, RECIPIENT) == 5
    found = client.find_transaction(signer.address, 0)
    assert found is not None
    assert found.tx_hash == hash_of(raw)


def test_final_blocks(client: ChainClient, dev_chain: DevChain) -> None:
    """A node names them, or is no answer; they are not newer than the head."""
    coin.fund(dev_chain.url, Account.create().address)
    tags: Sequence[FinalityTag] = ("safe", "finalized")
    for tag in tags:
        try:
            found = client.final_block(tag)
        except ChainUnavailableError:
            continue
        assert found.number <= client.latest_block().number
        assert client.block(found.number) == found
