"""
Typed data (EIP-712): strict parsing, normalised values, and the digest to sign.

It imports ``signer.errors``, ``signer.addresses``, the JSON modules and
``signer.crypto``.
"""

from signer.crypto.typed_data.document import MAX_SIZE, USER_OPERATION, TypedData
from signer.crypto.typed_data.struct_types import Member


__all__ = ["MAX_SIZE", "USER_OPERATION", "Member", "TypedData"]
