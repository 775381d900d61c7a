"""ERC-20 (EIP-20): the calldata of a transfer, and the event that proves it."""

from collections.abc import Iterable

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import is_same_address, to_checksum_address
from eth_utils.crypto import keccak

from signer.errors import EncodingError
from signer.ports import Log


TRANSFER = keccak(text="transfer(address,uint256)")[:4]
TRANSFER_EVENT = keccak(text="Transfer(address,address,uint256)")
DECIMALS = keccak(text="decimals()")[:4]
BALANCE_OF = keccak(text="balanceOf(address)")[:4]

_ARGUMENTS = ("address", "uint256")


MARK_SIZE = 16

_TRANSFER_SIZE = len(TRANSFER) + 2 * 32


def transfer_calldata(recipient: str, amount: int, mark: bytes = b"") -> bytes:
    """
    Return the calldata of ``transfer(recipient, amount)``: 68 bytes, then *mark*.

    Decoders of arguments ignore what follows them (Solidity's ABI specification
    calls for no check of the length), so that it may carry a mark.
    """
    return TRANSFER + encode(_ARGUMENTS, (recipient, amount)) + mark


def mark_of(calldata: bytes) -> bytes | None:
    """Return the mark behind a transfer, or None if that is not what this is."""
    is_marked = (
        len(calldata) == _TRANSFER_SIZE + MARK_SIZE
        and calldata[: len(TRANSFER)] == TRANSFER
    )
    return calldata[_TRANSFER_SIZE:] if is_marked else None


def balance_calldata(owner: str) -> bytes:
    """Return the calldata of ``balanceOf(owner)``."""
    return BALANCE_OF + encode(("address",), (owner,))


def decode_transfer(calldata: bytes) -> tuple[str, int, bytes]:
    """
    Return recipient (EIP-55), amount and mark (16 bytes, or none) of a ``transfer``.

    Raises:
        EncodingError: It is not exactly the calldata of one.
    """
    mark = mark_of(calldata) or b""
    try:
        recipient, amount = decode(_ARGUMENTS, calldata[4:])
    except DecodingError:
        raise EncodingError("the calldata is not a transfer") from None
    recipient = to_checksum_address(recipient)
    if transfer_calldata(recipient, amount, mark) != calldata:
        raise EncodingError("the calldata is not a transfer")
    return recipient, amount, mark


def transferred(
    logs: Iterable[Log], *, token: str, sender: str, recipient: str, amount: int
) -> bool:
    """
    Say whether exactly this transfer happened, once, by the token's own event.

    A receipt's status is no proof: tokens may answer false, keep a fee, or do
    nothing.  A second transfer from *sender* to *recipient* in the same receipt is
    as wrong as none.
    """
    topics = (TRANSFER_EVENT, _topic(sender), _topic(recipient))
    amounts = [
        log.data
        for log in logs
        if is_same_address(log.address, token) and log.topics == topics
    ]
    return amounts == [encode(("uint256",), (amount,))]


def _topic(address: str) -> bytes:
    return encode(("address",), (address,))
