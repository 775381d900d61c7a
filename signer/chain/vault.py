"""
The vault (``contracts/``): calldata of ``pay``, and the end of each of its items.

A vault pays the items of a transaction one by one.  It emits one event for each, in
their order, so the receipt says how each of them ended.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

from signer.chain.erc20 import has_exact_transfer
from signer.errors import EncodingError
from signer.ports.chain import Log


CODE_HASH = bytes.fromhex(
    "8ae950a17840c4594f36854704622dd376f1e1630845841601eef0eeeb244862"
)
"""The hash of the code of every vault: ``code_hash`` in ``vault.json``."""

PAY = keccak(text="pay(address,bytes)")[:4]
PAID_EVENT = keccak(text="Paid(bytes16)")
SKIPPED_EVENT = keccak(text="Skipped(bytes16,uint256,uint8)")

MARK_SIZE = 16
"""Bytes that name an item, in calldata and events (``Refund.memo``)."""

MAX_AMOUNT = 2**96 - 1

_ADDRESS_SIZE, _AMOUNT_SIZE = 20, 12
_ITEM_SIZE = _ADDRESS_SIZE + _AMOUNT_SIZE + MARK_SIZE

ITEM_GAS = 300_000
"""What a token may use for one item: ``Vault.ITEM_GAS``."""

# 21,000 of each transaction, the caps and the day's sum, and ``Vault.MIN_GAS``, which
# must be left before the last item.
_BATCH_GAS = 380_000


class Reason(IntEnum):
    """Why a vault skipped an item; the numbers are those of ``Vault.End``."""

    NOT_WITHIN_ITEM_CAP = 1
    ABOVE_DAY_CAP = 2
    NO_CODE = 3
    REVERTED = 4
    NOT_TRUE = 5


@dataclass(frozen=True, slots=True)
class Item:
    """A payment of *amount* base units, with a mark of 16 bytes."""

    recipient: str
    amount: int
    mark: bytes


@dataclass(frozen=True, slots=True)
class End:
    """
    How an item ended: *reason* is None if the token took the vault's call.

    *has_transfer* says whether the token's own event proves the payment.  A token that
    lies has one without the other.
    """

    reason: Reason | None
    has_transfer: bool


def has_vault_code(code: bytes) -> bool:
    """Return whether *code*, that of an address, is that of a vault."""
    return keccak(code) == CODE_HASH


def batch_gas(limits: Iterable[int]) -> int:
    """
    Return the gas limit of a batch of transfers that alone would have *limits*.

    A vault adds less to each than a transaction of its own would.
    """
    return _BATCH_GAS + sum(limits)


def item_gas(gas: int, count: int) -> int:
    """Return the share of each of *count* items in the gas limit of a batch."""
    return max(0, gas - _BATCH_GAS) // count


def encode_pay(token: str, items: Iterable[Item]) -> bytes:
    """
    Return the calldata of ``pay(token, items)``.

    Raises:
        EncodingError: An address is none, an amount is not in 1 ... ``MAX_AMOUNT``, or
            a mark has another size.
    """
    try:
        packed = b"".join(map(_encode_item, items))
        return PAY + encode(["address", "bytes"], [_read_address(token), packed])
    except (OverflowError, ValueError):
        raise EncodingError("an item cannot be paid by a vault") from None


def _encode_item(item: Item) -> bytes:
    if item.amount <= 0 or len(item.mark) != MARK_SIZE:
        raise ValueError
    amount = item.amount.to_bytes(_AMOUNT_SIZE, "big")
    return _read_address(item.recipient) + amount + item.mark


def _read_address(text: str) -> bytes:
    address = bytes.fromhex(text.removeprefix("0x"))  # It skips spaces.
    if len(text) != len("0x") + 2 * _ADDRESS_SIZE or len(address) != _ADDRESS_SIZE:
        raise ValueError
    return address


def decode_pay(calldata: bytes) -> tuple[str, tuple[Item, ...]]:
    """
    Return token and items of a ``pay``; addresses are in lower case.

    Raises:
        EncodingError: *calldata* is not exactly what ``encode_pay`` returns.
    """
    problem = "the calldata is not a payment by a vault"
    if not calldata.startswith(PAY):
        raise EncodingError(problem)
    try:
        token, packed = decode(["address", "bytes"], calldata[len(PAY) :])
    except (DecodingError, OverflowError):
        raise EncodingError(problem) from None
    starts = range(0, len(packed), _ITEM_SIZE)
    items = tuple(_decode_item(packed[start : start + _ITEM_SIZE]) for start in starts)
    # Other offsets, bytes after the arguments, half an item, or an amount of zero.
    if encode_pay(token, items) != calldata:
        raise EncodingError(problem)
    return token, items


def _decode_item(packed: bytes) -> Item:
    recipient, rest = packed[:_ADDRESS_SIZE], packed[_ADDRESS_SIZE:]
    amount = int.from_bytes(rest[:_AMOUNT_SIZE], "big")
    return Item("0x" + recipient.hex(), amount, rest[_AMOUNT_SIZE:])


def read_ends(
    logs: Iterable[Log], *, vault: str, token: str, items: Sequence[Item]
) -> tuple[End, ...]:
    """
    Return the end of each of *items*, in their order.

    *logs* are those of the receipt of a transaction that succeeded, and that called
    ``pay(token, items)`` of *vault*.

    Raises:
        EncodingError: The vault's events are not one for each item, in their order.
    """
    ends: list[End] = []
    since: list[Log] = []  # The events since the last end.
    for log in logs:
        if log.address.lower() != vault.lower():
            since.append(log)
            continue
        if len(ends) == len(items):
            raise EncodingError("the vault ended more items than it had")
        item = items[len(ends)]
        is_proven = has_exact_transfer(
            since,
            token=token,
            sender=vault,
            recipient=item.recipient,
            amount=item.amount,
        )
        ends.append(End(_read_reason(log, len(ends), item.mark), is_proven))
        since.clear()
    if len(ends) != len(items):
        raise EncodingError("the vault ended fewer items than it had")
    return tuple(ends)


def _read_reason(log: Log, index: int, mark: bytes) -> Reason | None:
    topic = mark.ljust(32, b"\0")
    if log == Log(log.address, (PAID_EVENT, topic), b""):
        return None
    if log.topics == (SKIPPED_EVENT, topic):
        for reason in Reason:
            if log.data == encode(["uint256", "uint8"], [index, reason]):
                return reason
    raise EncodingError("an event of the vault is not the end of an item")
