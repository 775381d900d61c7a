"""The schemas of the routes that sign."""

from api.http.openapi.elements import Element, closed, record, text
from api.http.openapi.refund_schemas import address


_HASH = "^0x[0-9a-f]{64}$"

_SIGNER = address("Who is to sign; refused unless it is the address that signs here.")

_DOCUMENT: Element = {
    "type": ["object", "string"],
    "description": (
        "A document of EIP-712 (`types`, `primaryType`, `domain`, `message`), or its"
        " JSON in a string."
    ),
}

SCHEMAS: dict[str, Element] = {
    "MessageSigningRequest": closed(
        record(
            "A message to sign (EIP-191, version 0x45).",
            ("address",),
            message=text("Text; or bytes in hex, with 0x."),
            address=_SIGNER,
        )
    ),
    "TypedDataSigningRequest": closed(
        record(
            "A document to sign.", ("address",), typed_data=_DOCUMENT, address=_SIGNER
        )
    ),
    "MessageSignature": record(
        "A signature.",
        address=address("The address that signed."),
        digest=text("The 32 bytes that were signed.", pattern=_HASH),
        signature=text("r, s and v; v is 27 or 28.", pattern="^0x[0-9a-f]{130}$"),
    ),
    "RPCRequest": {
        "description": (
            "A request of JSON-RPC 2.0, or a batch of up to 100. `docs/reference/"
            "json-rpc.md` has the methods and the codes."
        ),
        "type": ["object", "array", "string", "number", "boolean", "null"],
    },
    "RPCAnswer": {
        "description": "The answer, or those of a batch in the order of its calls.",
        "type": ["object", "array"],
    },
}
