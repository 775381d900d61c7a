"""
A ``LocalAccount`` of eth-account whose private key is not in this process.

web3.py's signing middleware accepts instances of ``LocalAccount`` only
(``web3.middleware.signing.to_account``).  ``LocalAccount`` holds a key, so this class
never calls its constructor, and refuses what would need the key.
"""

from typing import NoReturn, SupportsIndex

from eth_account.signers.local import LocalAccount

from signer.errors import KeyNotExportableError


_NO_KEY = (
    "the private key is in the HSM and cannot be exported; sign with this account"
    " instead: sign_transaction, sign_message, sign_typed_data"
)


class KeylessAccount(LocalAccount):
    """
    Has the interface of ``LocalAccount`` without a key; subclasses sign.

    ``key``, ``privateKey``, ``encrypt`` and ``bytes(account)`` raise
    ``KeyNotExportableError``, so that ``hasattr(account, "key")`` is False.
    """

    def __init__(self) -> None:
        """Do not call the constructor of ``LocalAccount``, which stores a key."""

    def __bytes__(self) -> NoReturn:
        raise KeyNotExportableError(_NO_KEY)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: it uses a connection"
            " to the HSM; open it in each process"
        )

    @property
    def key(self) -> NoReturn:
        """Not available: the key cannot be exported."""
        raise KeyNotExportableError(_NO_KEY)

    # What ``LocalAccount`` stores, and the name of ``key`` before eth-account 0.13.
    _private_key = _key_obj = _publicapi = privateKey = key  # noqa: N815

    def encrypt(self, *arguments: object, **options: object) -> NoReturn:
        """Raise ``KeyNotExportableError``: there is no key to encrypt."""
        raise KeyNotExportableError(_NO_KEY)
