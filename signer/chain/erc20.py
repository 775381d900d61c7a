"""
ERC-20 (EIP-20): calldata of transfers and balances, and the Transfer event.

TIP-20 is that of Tempo's chains, which know their tokens by the beginning of the
address.  They reserve room in each block for exact calls of ``transferWithMemo``
(https://docs.tempo.xyz/docs/protocol).
"""

from collections.abc import Iterable
from functools import lru_cache

from eth_abi.encoding import AddressEncoder
from eth_utils.crypto import keccak

from signer.errors import EncodingError
from signer.ports.chain import Log


TRANSFER = keccak(text="transfer(address,uint256)")[:4]
TRANSFER_EVENT = keccak(text="Transfer(address,address,uint256)")
DECIMALS = keccak(text="decimals()")[:4]
BALANCE_OF = keccak(text="balanceOf(address)")[:4]

MEMO_SIZE = 16
"""Bytes of the memo that follows a transfer's arguments (``Refund.memo``)."""

_WITH_MEMO = keccak(text="transferWithMemo(address,uint256,bytes32)")[:4]
_TIP_20 = "0x20c000000000000000000000"
_REST = bytes(32 - MEMO_SIZE)

# Of a tuple of types without a dynamic one, the encoding is that of each in order.
# A wallet, its tokens and many recipients come again: an encoding takes 15 us.
_encode_address = lru_cache(maxsize=4096)(AddressEncoder())
_PADDING = bytes(12)  # Of an address, in the 32 bytes of an argument.

_TRANSFER_SIZE = len(TRANSFER) + 2 * 32


def encode_transfer(recipient: str, amount: int, memo: bytes = b"") -> bytes:
    """
    Return the calldata of ``transfer(recipient, amount)``: 68 bytes, then *memo*.

    Contracts ignore bytes after the arguments (Solidity ABI specification).
    """
    return TRANSFER + _encode_address(recipient) + amount.to_bytes(32) + memo


def encode_payment(token: str, recipient: str, amount: int, memo: bytes) -> bytes:
    """Return the calldata of a transfer with *memo*, as *token* has it."""
    transfer = encode_transfer(recipient, amount, memo)
    if not token.lower().startswith(_TIP_20):
        return transfer
    return _WITH_MEMO + transfer[len(TRANSFER) :] + _REST


def as_transfer(calldata: bytes) -> bytes:
    """Return *calldata*, but a transfer of a TIP-20 as that of another token."""
    is_exact = len(calldata) == _TRANSFER_SIZE + MEMO_SIZE + len(_REST)
    if is_exact and calldata.startswith(_WITH_MEMO) and calldata.endswith(_REST):
        return TRANSFER + calldata[len(TRANSFER) : -len(_REST)]
    return calldata


def read_memo(calldata: bytes) -> bytes | None:
    """Return the memo of a transfer; None if *calldata* is not a transfer with one."""
    calldata = as_transfer(calldata)
    has_memo = (
        len(calldata) == _TRANSFER_SIZE + MEMO_SIZE
        and calldata[: len(TRANSFER)] == TRANSFER
    )
    return calldata[_TRANSFER_SIZE:] if has_memo else None


def encode_balance_of(owner: str) -> bytes:
    return BALANCE_OF + _encode_address(owner)


def decode_transfer(calldata: bytes) -> tuple[str, int, bytes]:
    """
    Return recipient, amount and memo (16 bytes, or none) of a ``transfer``.

    The recipient is in lower case: its checksum would cost a hash.

    Raises:
        EncodingError: *calldata* is not exactly what ``encode_payment`` returns.
    """
    calldata = as_transfer(calldata)
    memo = read_memo(calldata) or b""
    is_transfer = calldata.startswith(TRANSFER + _PADDING)
    if not is_transfer or len(calldata) != _TRANSFER_SIZE + len(memo):
        raise EncodingError("the calldata is not a transfer")
    amount = int.from_bytes(calldata[36:_TRANSFER_SIZE])
    return f"0x{calldata[16:36].hex()}", amount, memo


def has_exact_transfer(
    logs: Iterable[Log], *, token: str, sender: str, recipient: str, amount: int
) -> bool:
    """
    Return whether *logs* have this transfer exactly once, in the token's own event.

    The receipt's status is not enough: a token may return false, charge a fee or do
    nothing.  A second transfer from *sender* to *recipient* in the same receipt also
    counts as a mismatch.
    """
    topics = (TRANSFER_EVENT, _encode_address(sender), _encode_address(recipient))
    contract = _encode_address(token)
    amounts = [
        log.data
        for log in logs
        if log.topics == topics and _encode_address(log.address) == contract
    ]
    return amounts == [amount.to_bytes(32)]
