"""Signatures as JSON."""

from collections.abc import Mapping
from typing import Annotated, Any

from api.views.document import Address, Document, Hash, says, text


class MessageSignatureDocument(Document):
    """A signature."""

    address: Address = says("The address that signed.")
    digest: Hash = says("The 32 bytes that were signed.")
    signature: Annotated[str, text(pattern="^0x[0-9a-f]{130}$")] = says(
        "r, s and v; v is 27 or 28."
    )

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        """Return the bytes in hex."""
        return {
            "digest": f"0x{source.digest.hex()}",
            "signature": f"0x{source.to_bytes().hex()}",
        }
