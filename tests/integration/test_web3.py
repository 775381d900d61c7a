"""
web3.py signs and sends with an ``HSMAccount``, through its own middleware.

The key is in SoftHSM, the chain is anvil, and web3.py is the user's: nothing of ours is
between it and the node.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from web3 import AsyncHTTPProvider, AsyncWeb3, HTTPProvider, Web3
from web3.middleware import SignAndSendRawMiddlewareBuilder

from backends.pkcs11 import PKCS11Backend
from dev import stablecoin as coin
from signer.account import HSMAccount
from signer.errors import PolicyViolationError
from signer.ports.key_backend import KeyId
from tests.fixtures.chain import DevChain


RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
GWEI = 10**9
ABI = coin.artifact()["abi"]
TYPES: dict[int, dict[str, Any]] = {
    0: {"gasPrice": 3 * GWEI},
    1: {"gasPrice": 3 * GWEI, "accessList": [], "type": 1},
    2: {"maxFeePerGas": 3 * GWEI, "maxPriorityFeePerGas": GWEI},
}


@pytest.fixture
def account(
    softhsm: PKCS11Backend, softhsm_key: KeyId, fresh_anvil: DevChain
) -> HSMAccount:
    """An account with coin and TUSD, whose key is in SoftHSM."""
    account = HSMAccount.open(softhsm, softhsm_key)
    coin.fund(fresh_anvil.url, account.address, token=fresh_anvil.token)
    return account


@pytest.fixture
def w3(account: HSMAccount, fresh_anvil: DevChain) -> Web3:
    """Return web3.py with the account in its signing middleware."""
    w3 = Web3(HTTPProvider(fresh_anvil.url))
    w3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(account), layer=0)
    w3.eth.default_account = account.address
    return w3


def _tokens(chain: DevChain) -> int:
    return coin.balance_of(chain.url, chain.token, RECIPIENT)


@pytest.mark.parametrize("kind", TYPES)
def test_coin_in_every_type(
    w3: Web3, account: HSMAccount, fresh_anvil: DevChain, kind: int
) -> None:
    """The node mines a transfer of coin of each type that the policy allows (S11)."""
    to = Account.create().address
    fields: Any = {"from": account.address, "to": to, "value": 7, **TYPES[kind]}

    receipt = w3.eth.wait_for_transaction_receipt(w3.eth.send_transaction(fields))

    assert (receipt["status"], receipt["type"]) == (1, kind)
    assert receipt["from"] == account.address
    assert w3.eth.get_balance(to) == 7


def test_web3_fills_in_nonce_gas_and_fees(w3: Web3, fresh_anvil: DevChain) -> None:
    """Three calls of a contract one after the other, without a field by hand."""
    token = w3.eth.contract(Web3.to_checksum_address(fresh_anvil.token), abi=ABI)
    before = _tokens(fresh_anvil)

    for _ in range(3):
        tx_hash = token.functions.transfer(RECIPIENT, 1_500_000).transact()
        assert w3.eth.wait_for_transaction_receipt(tx_hash)["status"] == 1

    assert _tokens(fresh_anvil) - before == 4_500_000


def test_the_refusal_shows_its_rule(w3: Web3, fresh_anvil: DevChain) -> None:
    """An approval raises the policy's error, and nothing is sent."""
    token = w3.eth.contract(Web3.to_checksum_address(fresh_anvil.token), abi=ABI)
    nonce = w3.eth.get_transaction_count(w3.eth.default_account)  # type: ignore[arg-type]

    with pytest.raises(PolicyViolationError, match="rule allowance") as refused:
        token.functions.approve(RECIPIENT, 1).transact()

    assert refused.value.rule == "allowance"
    assert w3.eth.get_transaction_count(w3.eth.default_account) == nonce  # type: ignore[arg-type]


def test_messages_verify_in_eth_account(w3: Web3, account: HSMAccount) -> None:
    """web3.py recovers the account from a message, eth-account from typed data."""
    message = encode_defunct(text="hello")
    document: dict[str, Any] = {
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}],
            "Order": [{"name": "id", "type": "uint256"}],
        },
        "primaryType": "Order",
        "domain": {"name": "shop"},
        "message": {"id": 7},
    }

    hello = account.sign_message(message)
    order = account.sign_typed_data(full_message=document)

    assert w3.eth.account.recover_message(message, signature=hello.signature) == (
        account.address
    )
    recovered = Account.recover_message(
        encode_typed_data(full_message=document), signature=order.signature
    )
    assert recovered == account.address


def test_several_accounts(w3: Web3, account: HSMAccount, fresh_anvil: DevChain) -> None:
    """The middleware takes an HSM account and a local one together."""
    local = Account.create()
    coin.fund(fresh_anvil.url, local.address)
    both = SignAndSendRawMiddlewareBuilder.build([account, local])
    w3 = Web3(HTTPProvider(fresh_anvil.url), middleware=[both])

    for each in (account.address, local.address):
        fields: Any = {"from": each, "to": RECIPIENT, "value": 1}
        receipt = w3.eth.wait_for_transaction_receipt(w3.eth.send_transaction(fields))
        assert receipt["from"] == each


def _run_async(
    chain: DevChain,
    account: HSMAccount,
    work: Callable[[AsyncWeb3[AsyncHTTPProvider]], Awaitable[None]],
) -> None:
    async def main() -> None:
        provider = AsyncHTTPProvider(chain.url)
        w3 = AsyncWeb3(provider)
        middleware = SignAndSendRawMiddlewareBuilder.build(account)
        w3.middleware_onion.inject(middleware, layer=0)
        w3.eth.default_account = account.address
        try:
            await work(w3)
        finally:
            await provider.disconnect()

    asyncio.run(main())


def test_async_calls_of_contracts(account: HSMAccount, fresh_anvil: DevChain) -> None:
    """A transfer of tokens is mined; an approval raises the policy's error."""
    before = _tokens(fresh_anvil)

    async def work(w3: AsyncWeb3[AsyncHTTPProvider]) -> None:
        address = Web3.to_checksum_address(fresh_anvil.token)
        token = w3.eth.contract(address, abi=ABI)
        tx_hash = await token.functions.transfer(RECIPIENT, 1_500_000).transact()
        receipt = await w3.eth.wait_for_transaction_receipt(tx_hash)
        assert receipt["status"] == 1
        with pytest.raises(PolicyViolationError, match="rule allowance"):
            await token.functions.approve(RECIPIENT, 1).transact()

    _run_async(fresh_anvil, account, work)
    assert _tokens(fresh_anvil) - before == 1_500_000
