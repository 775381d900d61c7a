"""Signed transactions for local chains, with throw-away keys."""

from typing import Any

from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.ports.chain import ChainClient, Receipt
from tests.support.rpc import receipt_of
from tests.support.waiting import eventually


RECIPIENT = "0x00000000000000000000000000000000DeaDBeef"


def signed(account: LocalAccount, **changes: Any) -> bytes:
    """Return the bytes of an EIP-1559 transaction to RECIPIENT, signed by *account*."""
    transaction: dict[str, Any] = {
        "type": 2,
        "chainId": CHAIN_ID,
        "nonce": 0,
        "to": RECIPIENT,
        "value": 0,
        "data": b"",
        "gas": 100_000,
        "maxFeePerGas": 20 * 10**9,
        "maxPriorityFeePerGas": 10**9,
    }
    return bytes(account.sign_transaction(transaction | changes).raw_transaction)


def transfer(account: LocalAccount, token: str, amount: int, **changes: Any) -> bytes:
    """Return the bytes of a transfer of *amount* base units to RECIPIENT."""
    data = coin.calldata("transfer(address,uint256)", RECIPIENT, amount)
    return signed(account, to=token, data=data, **changes)


def hash_of(raw: bytes) -> str:
    """Return the hash of a transaction, as 0x-prefixed hex."""
    return "0x" + keccak(raw).hex()


def mined(client: ChainClient, raw: bytes) -> Receipt:
    """Wait for the receipt of *raw*: anvil mines at once, but not before it answers."""
    receipt = eventually(lambda: receipt_of(client, hash_of(raw)))
    assert receipt, "not mined"
    return receipt
