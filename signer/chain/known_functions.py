"""
The contract functions whose calldata this project decodes, by selector.

A selector is the first four bytes of the hash of a signature, so other functions can
have the same one, and a contract may do anything under a known name.  The table is
how to read the bytes; policy decides which contracts to trust.
"""

import re
from dataclasses import dataclass

from eth_abi.grammar import TupleType, parse

from signer.crypto.keccak import keccak


@dataclass(frozen=True, slots=True)
class Function:
    """
    A function of a contract: its name, canonical signature and parameters.

    ``types`` are ABI types, and ``names`` has one name for each of them.
    ``static_size`` is the number of bytes of the arguments, or None if it varies.
    """

    name: str
    signature: str
    types: tuple[str, ...]
    names: tuple[str, ...]
    static_size: int | None

    @property
    def selector(self) -> bytes:
        """The first four bytes of the calldata (Solidity ABI specification)."""
        return keccak(self.signature.encode())[:4]


_LEAF = re.compile(r"[^(),]+")

_PERMIT2_DETAILS = "(address,uint160,uint48,uint48)"


def _function(signature: str, names: str = "") -> Function:
    name, _, _ = signature.partition("(")
    types = _types(signature.removeprefix(name))
    is_dynamic = re.search(r"\[|bytes\b", signature) is not None
    size = None if is_dynamic else 32 * sum(len(_LEAF.findall(each)) for each in types)
    return Function(name, signature, types, tuple(names.split()), size)


def _types(arguments: str) -> tuple[str, ...]:
    if arguments == "()":  # The grammar of eth-abi has no empty tuple.
        return ()
    parsed = parse(arguments)
    assert isinstance(parsed, TupleType)  # noqa: S101  For the type checker.
    return tuple(component.to_type_str() for component in parsed.components)


_FUNCTIONS = (
    # ERC-20 (EIP-20), and what tokens add to it.
    _function("transfer(address,uint256)", "to amount"),
    _function("transferFrom(address,address,uint256)", "from to amount"),
    _function("approve(address,uint256)", "spender amount"),
    _function("increaseAllowance(address,uint256)", "spender amount"),
    _function("decreaseAllowance(address,uint256)", "spender amount"),
    _function("increaseApproval(address,uint256)", "spender amount"),
    _function("decreaseApproval(address,uint256)", "spender amount"),
    _function("mint(address,uint256)", "to amount"),
    _function("mint(uint256)", "amount"),
    _function("burn(uint256)", "amount"),
    _function("burn(address,uint256)", "from amount"),
    _function("burnFrom(address,uint256)", "from amount"),
    # ERC-677 and ERC-1363: the token then calls the recipient or the spender.
    _function("transferAndCall(address,uint256)", "to amount"),
    _function("transferAndCall(address,uint256,bytes)", "to amount data"),
    _function("approveAndCall(address,uint256)", "spender amount"),
    _function("approveAndCall(address,uint256,bytes)", "spender amount data"),
    # ERC-2612, and DAI's older form of it.
    _function(
        "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)",
        "owner spender amount deadline v r s",
    ),
    _function(
        "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)",
        "owner spender nonce deadline allowed v r s",
    ),
    # ERC-3009.
    _function(
        "transferWithAuthorization"
        "(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)",
        "from to amount validAfter validBefore nonce v r s",
    ),
    _function(
        "receiveWithAuthorization"
        "(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)",
        "from to amount validAfter validBefore nonce v r s",
    ),
    # Permit2.
    _function(
        "approve(address,address,uint160,uint48)", "token spender amount deadline"
    ),
    _function("transferFrom(address,address,uint160,address)", "from to amount token"),
    _function(
        f"permit(address,({_PERMIT2_DETAILS},address,uint256),bytes)",
        "owner permit signature",
    ),
    _function(
        f"permit(address,({_PERMIT2_DETAILS}[],address,uint256),bytes)",
        "owner permit signature",
    ),
    # ERC-721 and ERC-1155; transferFrom and approve are those of ERC-20.
    _function("setApprovalForAll(address,bool)", "operator approved"),
    _function("safeTransferFrom(address,address,uint256)", "from to tokenId"),
    _function(
        "safeTransferFrom(address,address,uint256,bytes)", "from to tokenId data"
    ),
    _function(
        "safeTransferFrom(address,address,uint256,uint256,bytes)",
        "from to tokenId amount data",
    ),
    _function(
        "safeBatchTransferFrom(address,address,uint256[],uint256[],bytes)",
        "from to tokenIds amounts data",
    ),
    # Lets another address take or owe, without a token's own allowance: Aave's debt
    # tokens, Compound III, Morpho, ERC-777, CoW Protocol and Balancer.
    _function("approveDelegation(address,uint256)", "spender amount"),
    _function("allow(address,bool)", "operator approved"),
    _function("setAuthorization(address,bool)", "operator approved"),
    _function("authorizeOperator(address)", "operator"),
    _function("setPreSignature(bytes,bool)", "order approved"),
    _function("setRelayerApproval(address,address,bool)", "owner operator approved"),
    # WETH.
    _function("deposit()"),
    _function("withdraw(uint256)", "amount"),
    # Several calls in one: OpenZeppelin's Multicall, and Uniswap's routers.
    _function("multicall(bytes[])", "calls"),
    _function("multicall(uint256,bytes[])", "deadline calls"),
    _function("multicall(bytes32,bytes[])", "previousBlockHash calls"),
)

BY_SELECTOR = {function.selector: function for function in _FUNCTIONS}

BY_SIGNATURE = {function.signature: function for function in _FUNCTIONS}
