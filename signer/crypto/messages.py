"""The digests of signed messages and typed data (EIP-191, EIP-712)."""

from eth_account.messages import SignableMessage

from signer.crypto.keccak import keccak


def message_digest(message: SignableMessage) -> bytes:
    """
    Return keccak256(0x19 || version || header || body) (EIP-191).

    The leading 0x19 ensures that no message is a valid transaction.  EIP-712 data has
    version 0x01; ``eth_account.messages`` builds both kinds.
    """
    return keccak(b"\x19" + message.version + message.header + message.body)
