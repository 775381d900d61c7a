"""
A test stablecoin on a local chain.

No private key is involved: the node signs for its own unlocked accounts, and the
first of them issues the coin.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address

from dev.rpc import RPC


_ARTIFACT = Path(__file__).with_name("TestUSD.json")


@cache
def artifact() -> dict[str, Any]:
    """Return the compiled contract: ``abi``, ``bytecode`` and how it was made."""
    content: dict[str, Any] = json.loads(_ARTIFACT.read_text(encoding="utf-8"))
    return content


def deploy(rpc_url: str) -> str:
    """Deploy a new TestUSD and return its address (EIP-55)."""
    rpc = RPC(rpc_url)
    receipt = rpc.transact({"from": issuer(rpc_url), "data": artifact()["bytecode"]})
    return to_checksum_address(receipt["contractAddress"])


def fund(
    rpc_url: str,
    address: str,
    *,
    token: str | None = None,
    amount: int = 1_000_000 * 10**6,
    wei: int = 10 * 10**18,
) -> None:
    """Give *address* its *wei* for gas, and *amount* base units of *token* if any."""
    rpc = RPC(rpc_url)
    rpc.transact({"from": issuer(rpc_url), "to": address, "value": hex(wei)})
    if token is not None:
        administer(rpc_url, token, "mint(address,uint256)", address, amount)


def administer(rpc_url: str, token: str, signature: str, *arguments: object) -> None:
    """Call *signature* as the issuer, for example ``"setPaused(bool)", True``."""
    RPC(rpc_url).transact(
        {
            "from": issuer(rpc_url),
            "to": token,
            "data": "0x" + calldata(signature, *arguments).hex(),
        }
    )


def balance_of(rpc_url: str, token: str, address: str) -> int:
    """Return how many base units of *token* *address* holds."""
    data = "0x" + calldata("balanceOf(address)", address).hex()
    return int(RPC(rpc_url)("eth_call", {"to": token, "data": data}, "latest"), 16)


def issuer(rpc_url: str) -> str:
    """Return the account that deploys and administers: the node's first."""
    return to_checksum_address(RPC(rpc_url)("eth_accounts")[0])


def calldata(signature: str, *arguments: object) -> bytes:
    """Return the ABI-encoded call of *signature*, such as ``"f(address,uint256)"``."""
    types = [
        kind for kind in signature[signature.index("(") + 1 : -1].split(",") if kind
    ]
    return function_signature_to_4byte_selector(signature) + encode(types, arguments)
