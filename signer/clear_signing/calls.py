"""Describes a transaction in one line: "transfer 12.50 USDC to 0x70..."."""

from collections.abc import Mapping
from typing import Any

from signer.chain.calldata import Call, decode_call
from signer.chain.known_functions import BY_SELECTOR
from signer.clear_signing.names import NEVER, AddressBook, write_time
from signer.errors import EncodingError


MAX_ITEMS = 8
"""Calls of a ``multicall``, and items of other lists, that are described."""

MAX_NESTING = 2
"""Levels of ``multicall`` that are described."""

_SELECTOR_SIZE = 4

_PERMIT2_DETAILS = "(address,uint160,uint48,uint48)"

# By signature; the names are those of signer/chain/known_functions.py, and contract.
_TEMPLATES = {
    "transfer(address,uint256)": "transfer {amount} to {to}",
    "transferFrom(address,address,uint256)": "transfer {amount} from {from} to {to}",
    "approve(address,uint256)": "approve {spender} to spend {amount}",
    "increaseAllowance(address,uint256)": "let {spender} spend {amount} more",
    "decreaseAllowance(address,uint256)": "let {spender} spend {amount} less",
    "increaseApproval(address,uint256)": "let {spender} spend {amount} more",
    "decreaseApproval(address,uint256)": "let {spender} spend {amount} less",
    "mint(address,uint256)": "mint {amount} for {to}",
    "mint(uint256)": "mint {amount}",
    "burn(uint256)": "burn {amount}",
    "burn(address,uint256)": "burn {amount} of {from}",
    "burnFrom(address,uint256)": "burn {amount} of {from}",
    "transferAndCall(address,uint256)": "transfer {amount} to {to} and call it",
    "transferAndCall(address,uint256,bytes)": (
        "transfer {amount} to {to} and call it with {data}"
    ),
    "approveAndCall(address,uint256)": (
        "approve {spender} to spend {amount} and call it"
    ),
    "approveAndCall(address,uint256,bytes)": (
        "approve {spender} to spend {amount} and call it with {data}"
    ),
    "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)": (
        "permit {spender} to spend {amount} from {owner} {deadline}"
    ),
    "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)": (
        "permit {spender} to spend everything in {contract} from {owner}: {allowed},"
        " {deadline}"
    ),
    "transferWithAuthorization"
    "(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)": (
        "transfer {amount} from {from} to {to}"
    ),
    "receiveWithAuthorization"
    "(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)": (
        "transfer {amount} from {from} to {to}"
    ),
    "approve(address,address,uint160,uint48)": (
        "approve {spender} to spend {amount} {deadline}"
    ),
    "transferFrom(address,address,uint160,address)": (
        "transfer {amount} from {from} to {to}"
    ),
    f"permit(address,({_PERMIT2_DETAILS},address,uint256),bytes)": (
        "permit {spender} to spend {granted} from {owner} {deadline}"
    ),
    f"permit(address,({_PERMIT2_DETAILS}[],address,uint256),bytes)": (
        "permit {spender} to spend {granted} from {owner} {deadline}"
    ),
    "setApprovalForAll(address,bool)": (
        "let {operator} move all tokens in {contract}: {approved}"
    ),
    "approveDelegation(address,uint256)": (
        "let {spender} borrow {amount} for this account"
    ),
    "allow(address,bool)": "let {operator} manage everything in {contract}: {approved}",
    "setAuthorization(address,bool)": (
        "let {operator} manage everything in {contract}: {approved}"
    ),
    "authorizeOperator(address)": "let {operator} move all tokens in {contract}",
    "setPreSignature(bytes,bool)": (
        "approve the order {order} of {contract}: {approved}"
    ),
    "setRelayerApproval(address,address,bool)": (
        "let {operator} manage everything of {owner} in {contract}: {approved}"
    ),
    "safeTransferFrom(address,address,uint256)": (
        "transfer token id {tokenId} of {contract} from {from} to {to}"
    ),
    "safeTransferFrom(address,address,uint256,bytes)": (
        "transfer token id {tokenId} of {contract} from {from} to {to} with {data}"
    ),
    "safeTransferFrom(address,address,uint256,uint256,bytes)": (
        "transfer {amount} of token id {tokenId} of {contract} from {from} to {to} with"
        " {data}"
    ),
    "safeBatchTransferFrom(address,address,uint256[],uint256[],bytes)": (
        "transfer {amounts} of token ids {tokenIds} of {contract} from {from} to {to}"
        " with {data}"
    ),
    "deposit()": "wrap coins in {contract}",
    "withdraw(uint256)": "withdraw {amount}",
}


def describe_transaction(
    to: str | None, value: int, data: bytes, book: AddressBook
) -> str:
    """
    Return what a transaction does, on one line.

    *to* is None for the creation of a contract, and *value* is in wei.  It never
    raises: malformed calldata is described as such.
    """
    coins = f" and send {book.coins(value)}" if value else ""
    if to is None:
        return f"create a contract from {_size(data)}{coins}"
    if not data:
        return f"send {book.coins(value)} to {book.address(to)}"
    return _describe_data(data, to, book, MAX_NESTING) + coins


def _describe_data(data: bytes, contract: str, book: AddressBook, nesting: int) -> str:
    try:
        call = decode_call(data)
    except EncodingError:
        signature = BY_SELECTOR[data[:_SELECTOR_SIZE]].signature
        return f"call {signature} of {book.address(contract)} with malformed arguments"
    if call is not None:
        return _describe(call, contract, book, nesting)
    if len(data) < _SELECTOR_SIZE:
        return f"call {book.address(contract)} with {_size(data)}"
    selector, arguments = data[:_SELECTOR_SIZE].hex(), _size(data[_SELECTOR_SIZE:])
    return f"call function 0x{selector} of {book.address(contract)} with {arguments}"


def _describe(call: Call, contract: str, book: AddressBook, nesting: int) -> str:
    if call.name == "multicall":
        text = _describe_multicall(call, contract, book, nesting)
    else:
        text = _TEMPLATES[call.signature].format_map(_written(call, contract, book))
    return f"{text}, followed by {_size(call.extra)}" if call.extra else text


def _describe_multicall(
    call: Call, contract: str, book: AddressBook, nesting: int
) -> str:
    calls = call.arguments[-1]
    heading = f"{_count(len(calls), 'call')} of {book.address(contract)}"
    if nesting == 0 or not calls:
        return heading
    parts = [
        f"({number}) {_describe_data(data, contract, book, nesting - 1)}"
        for number, data in enumerate(calls[:MAX_ITEMS], start=1)
    ]
    return f"{heading}: {'; '.join([*parts, *_others(calls)])}"


def _written(call: Call, contract: str, book: AddressBook) -> dict[str, str]:
    """Return the arguments as texts, by name."""
    named = _flattened(call.named())
    token = named.get("token", contract)
    is_counted = "tokenId" in named  # ERC-1155 counts tokens.
    written = {"contract": book.address(contract)}
    for name, value in named.items():
        if name == "amount" and not is_counted:
            written[name] = book.amount(value, token)
        elif name == "deadline":
            written[name] = write_time(value)
        elif name == "granted":
            grants = [book.amount(amount, each) for each, amount, *_ in value]
            written[name] = _join(grants)
        else:
            written[name] = _write(value, book)
    return written


def _flattened(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with the members of a permit of Permit2 beside them."""
    if named.get("allowed") is not None and named["deadline"] == 0:
        return {**named, "deadline": NEVER}  # As DAI's contract reads it.
    if "permit" not in named:
        return dict(named)
    details, spender, deadline = named["permit"]
    is_batch = not details or isinstance(details[0], tuple)
    granted = details if is_batch else (details,)
    return {
        "owner": named["owner"],
        "spender": spender,
        "deadline": deadline,
        "granted": granted,
    }


def _write(value: Any, book: AddressBook) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return _size(value)
    if isinstance(value, str):  # Of the known functions, only addresses are.
        return book.address(value)
    if isinstance(value, tuple):
        return _join([str(item) for item in value])
    return str(value)


def _join(items: list[str]) -> str:
    return " and ".join([*items[:MAX_ITEMS], *_others(items)]) or "nothing"


def _others(items: list[Any] | tuple[Any, ...]) -> list[str]:
    return [f"{len(items) - MAX_ITEMS} more"] if len(items) > MAX_ITEMS else []


def _size(data: bytes) -> str:
    return _count(len(data), "byte")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
