"""Describes what calls and transactions do, in one line with whole addresses."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from eth_utils.address import to_checksum_address

from signer.amounts import COIN_DECIMALS, MAX_UINT256, format_units
from signer.chain.calldata import BY_SELECTOR, BY_SIGNATURE, DecodedCall, decode_call
from signer.config.networks import Network
from signer.errors import EncodingError


MAX_TEXT = 80
"""Characters of a foreign text in a description."""


_UNLIMITED = {MAX_UINT256, 2**160 - 1}  # Permit2 has amounts of 160 bits.

NEVER = 253_402_300_800
"""The first second that has no date: it begins the year 10000."""


@dataclass(frozen=True, slots=True)
class TokenName:
    """The symbol and the decimals of a token."""

    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class AddressBook:
    """The names of a network's coin, tokens and addresses (with their checksums)."""

    tokens: Mapping[str, TokenName] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    coin: str = "coins"

    @classmethod
    def of(cls, network: Network, labels: Mapping[str, str] | None = None) -> Self:
        """Return the names of the configured tokens of *network*, and *labels*."""
        tokens = {
            token.address: TokenName(symbol, token.decimals)
            for symbol, token in network.tokens.items()
        }
        return cls(tokens, labels or {})

    def address(self, address: str) -> str:
        """Return *address* in full, with its name if it has one."""
        full = to_checksum_address(address)
        token = self.tokens.get(full)
        name = self.labels.get(full) or (token and token.symbol)
        return f"{full} ({name})" if name else full

    def amount(self, units: int, token: str | None) -> str:
        """Return *units* of the contract *token*; of no known token, they are raw."""
        if token is None:
            return f"{units} units"
        full = to_checksum_address(token)
        known = self.tokens.get(full)
        if known is None:
            # It may be an NFT, whose amount is the id of a token.
            number = "unlimited" if units in _UNLIMITED else units
            return f"{number} units (or token id) of {self.address(token)}"
        number = "unlimited" if units in _UNLIMITED else _decimal(units, known.decimals)
        return f"{number} {known.symbol}"

    def coins(self, wei: int) -> str:
        return f"{_decimal(wei, COIN_DECIMALS)} {self.coin}"


def write_time(seconds: int) -> str:
    """Return until when: *seconds* since 1970, in UTC."""
    if seconds >= NEVER:
        return "without an end"
    return f"until {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def quote(text: str) -> str:
    """
    Return the foreign *text* in quotes, shortened, on one line, and in ASCII.

    Other characters could look like our own words, or change their order.
    """
    short = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
    return json.dumps(short)


def _decimal(units: int, decimals: int) -> str:
    """Return whole tokens with at least two digits after the point, if there are."""
    whole, point, fraction = format_units(units, decimals).partition(".")
    kept = fraction.rstrip("0")
    return f"{whole}{point}{kept.ljust(min(2, decimals), '0')}"


MAX_ITEMS = 8
"""Calls of a ``multicall``, and items of other lists, that are described."""

MAX_NESTING = 2
"""Levels of ``multicall`` that are described."""

_SELECTOR_SIZE = 4


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


def _describe(call: DecodedCall, contract: str, book: AddressBook, nesting: int) -> str:
    if call.name == "multicall":
        text = _describe_multicall(call, contract, book, nesting)
    else:
        words = BY_SIGNATURE[call.signature].words
        text = words.format_map(_written(call, contract, book))
    return f"{text}, followed by {_size(call.extra)}" if call.extra else text


def _describe_multicall(
    call: DecodedCall, contract: str, book: AddressBook, nesting: int
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


def _written(call: DecodedCall, contract: str, book: AddressBook) -> dict[str, str]:
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
