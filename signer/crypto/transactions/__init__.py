"""
The five types of Ethereum transactions: digest, signed bytes, and decoding.

One module per type.  They represent all transactions that can be valid on some chain;
which of them may be signed is decided by a policy.  The rlp library does the RLP.  The
tests compare each byte with eth-account and ethers; eth-account takes ten times as
long.
"""

from signer.crypto.transactions.access_list_transaction import AccessListTransaction
from signer.crypto.transactions.access_lists import AccessList
from signer.crypto.transactions.authorizations import Authorization
from signer.crypto.transactions.blob_transaction import BlobTransaction
from signer.crypto.transactions.dynamic_fee_transaction import DynamicFeeTransaction
from signer.crypto.transactions.legacy_transaction import LegacyTransaction
from signer.crypto.transactions.set_code_transaction import SetCodeTransaction
from signer.crypto.transactions.signed_bytes import AnyTransaction, SignedBytes
from signer.crypto.transactions.validation import MAX_GAS


__all__ = [
    "MAX_GAS",
    "AccessList",
    "AccessListTransaction",
    "AnyTransaction",
    "Authorization",
    "BlobTransaction",
    "DynamicFeeTransaction",
    "LegacyTransaction",
    "SetCodeTransaction",
    "SignedBytes",
]
