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


def transfer_calldata(recipient: str, amount: int) -> bytes:
    """Return the calldata of ``transfer(recipient, amount)``: 68 bytes."""
    return TRANSFER + encode(_ARGUMENTS, (recipient, amount))


def balance_calldata(owner: str) -> bytes:
    """Return the calldata of ``balanceOf(owner)``."""
    return BALANCE_OF + encode(("address",), (owner,))


def decode_transfer(calldata: bytes) -> tuple[str, int]:
    """
    Return recipient (EIP-55) and amount of a ``transfer``.

    Raises:
        EncodingError: It is not exactly the calldata of one.
    """
    try:
        recipient, amount = decode(_ARGUMENTS, calldata[4:])
    except DecodingError:
        raise EncodingError("the calldata is not a transfer") from None
    recipient = to_checksum_address(recipient)
    if transfer_calldata(recipient, amount) != calldata:
        raise EncodingError("the calldata is not a transfer")
    return recipient, amount


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
