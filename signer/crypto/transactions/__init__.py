"""
The five types of Ethereum transactions, and Tempo's: digest, bytes, and decoding.

They represent all transactions that can be valid on some chain;
which of them may be signed is decided by a policy.  The tests compare each byte with
eth-account and ethers; eth-account takes ten times as long.
"""

from signer.crypto.transactions.fields import MAX_GAS, AccessList
from signer.crypto.transactions.signed_bytes import (
    TOKEN_FEE_CLASSES,
    AnyTransaction,
    SignedBytes,
)
from signer.crypto.transactions.types import (
    AccessListTransaction,
    Authorization,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
    TempoTransaction,
)


__all__ = [
    "MAX_GAS",
    "TOKEN_FEE_CLASSES",
    "AccessList",
    "AccessListTransaction",
    "AnyTransaction",
    "Authorization",
    "BlobTransaction",
    "DynamicFeeTransaction",
    "LegacyTransaction",
    "SetCodeTransaction",
    "SignedBytes",
    "TempoTransaction",
]
