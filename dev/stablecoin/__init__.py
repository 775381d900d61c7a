"""
Test stablecoins on a local chain: TestUSD; WeirdUSD, which misbehaves on request; and
FiatUSD, a proxy that costs as much gas as USDC.

No private key is needed: the node signs for its unlocked accounts, and the first of
them is the issuer.
"""

import json
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address

from dev.rpc import RPC


class Behaviour(IntEnum):
    """How WeirdUSD handles a transfer; ``WeirdUSD.sol`` documents each value."""

    GOOD = 0
    RETURNS_NOTHING = 1
    RETURNS_FALSE = 2
    REVERTS_WITH_REASON = 3
    REVERTS_WITH_ERROR = 4
    REVERTS_SILENTLY = 5
    PANICS = 6
    CHARGES_RECIPIENT = 7
    CHARGES_SENDER = 8
    REPEATS_EVENT = 9
    OVERSTATES_EVENT = 10
    SAYS_NOTHING = 11


ALPHA_USD = "0x20C0000000000000000000000000000000000001"
"""A stablecoin that Tempo's chains have from the start."""

_CONTRACTS = {None: "TestUSD", "arc": "GasUSD"}


@cache
def artifact(contract: str = "TestUSD") -> dict[str, Any]:
    """Return a compiled contract: ``abi``, ``bytecode`` and compiler settings."""
    path = Path(__file__).with_name(f"{contract}.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def deploy(rpc_url: str, contract: str = "TestUSD") -> str:
    """Deploy a new token and return its address (EIP-55)."""
    code = artifact(contract)["bytecode"]
    receipt = RPC(rpc_url).transact({"from": issuer(rpc_url), "data": code})
    return to_checksum_address(receipt["contractAddress"])


def deploy_on(rpc_url: str, kind: str | None) -> str:
    """Return a token of a chain of *kind*: of "arc" and "tempo", it pays for gas."""
    return ALPHA_USD if kind == "tempo" else deploy(rpc_url, _CONTRACTS[kind])


def behave(rpc_url: str, token: str, behaviour: Behaviour) -> None:
    """Set the behaviour of the WeirdUSD at *token*."""
    administer(rpc_url, token, "setBehaviour(uint8)", behaviour)


def fund(
    rpc_url: str,
    address: str,
    *,
    token: str | None = None,
    amount: int = 1_000_000 * 10**6,
    wei: int = 10 * 10**18,
    kind: str | None = None,
) -> None:
    """
    Send *wei* to *address*, and mint *amount* base units of *token* if given.

    On a chain whose *kind* is "arc" or "tempo" both are one balance: it gets *amount*.
    """
    rpc = RPC(rpc_url)
    if kind == "arc":
        rpc("anvil_setBalance", address, hex(amount * 10**12))
        return
    if kind == "tempo":
        transfer = "transfer(address,uint256)"
        administer(rpc_url, ALPHA_USD, transfer, address, amount)
        return
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
    """Return the balance of *address* in base units of *token*."""
    data = "0x" + calldata("balanceOf(address)", address).hex()
    return int(RPC(rpc_url)("eth_call", {"to": token, "data": data}, "latest"), 16)


def issuer(rpc_url: str) -> str:
    """Return the account that deploys and administers: the first of the node."""
    return to_checksum_address(RPC(rpc_url)("eth_accounts")[0])


def calldata(signature: str, *arguments: object) -> bytes:
    """Return the ABI-encoded call of *signature*, such as ``"f(address,uint256)"``."""
    types = [
        kind for kind in signature[signature.index("(") + 1 : -1].split(",") if kind
    ]
    return function_signature_to_4byte_selector(signature) + encode(types, arguments)
