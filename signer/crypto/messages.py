"""The digest of a message that people and contracts sign: EIP-191."""

from eth_account.messages import SignableMessage
from eth_utils.crypto import keccak


def message_digest(message: SignableMessage) -> bytes:
    """
    Return keccak256(0x19 || version || header || body) (EIP-191).

    The leading 0x19 makes sure that no message is a transaction.  EIP-712 data
    is version 0x01: ``eth_account.messages`` builds both kinds.
    """
    return keccak(b"\x19" + message.version + message.header + message.body)
