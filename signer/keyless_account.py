"""
A ``LocalAccount`` of eth-account whose private key is not in this process.

web3.py's signing middleware accepts instances of ``LocalAccount`` only
(``web3.middleware.signing.to_account``).  ``LocalAccount`` holds a key, so this class
never calls its constructor, and refuses whatever would need the key.
"""

from typing import Any, NoReturn, SupportsIndex

from eth_account.signers.local import LocalAccount

from signer.errors import KeyNotExportableError


# What ``LocalAccount`` stores, and what it was called in eth-account before 0.13.
_OF_THE_KEY = frozenset({"_private_key", "_key_obj", "_publicapi", "privateKey"})

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

    def __getattr__(self, name: str) -> Any:
        if name == "key" or name in _OF_THE_KEY:
            raise KeyNotExportableError(_NO_KEY)
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: it uses a connection"
            " to the HSM; open it in each process"
        )

    @property
    def key(self) -> NoReturn:
        """Not available: the key cannot be exported."""
        raise KeyNotExportableError(_NO_KEY)

    def encrypt(self, *arguments: object, **options: object) -> NoReturn:
        """Raise ``KeyNotExportableError``: there is no key to encrypt."""
        raise KeyNotExportableError(_NO_KEY)
