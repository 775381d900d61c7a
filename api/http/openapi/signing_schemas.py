"""The schemas of the routes that sign."""

from api.http.openapi.elements import Element, closed, record, text
from api.http.openapi.refund_schemas import address


_HEX = "^0x([0-9a-f]{2})*$"
_HASH = "^0x[0-9a-f]{64}$"

_SIGNER = address("Who is to sign; refused unless it is the address that signs here.")

_TRANSACTION: Element = {
    "type": "object",
    "description": (
        "A complete transaction of type 0 to 4 in the form of JSON-RPC: `chainId`,"
        " `nonce`, `gas`, the fees of its type, and `to`, `value`, `data`,"
        " `accessList` as needed. Numbers are hex quantities or integers."
    ),
    "additionalProperties": True,
}

_DOCUMENT: Element = {
    "type": ["object", "string"],
    "description": (
        "A document of EIP-712 (`types`, `primaryType`, `domain`, `message`), or its"
        " JSON in a string."
    ),
}

SCHEMAS: dict[str, Element] = {
    "TransactionSigningRequest": closed(
        record("A transaction to sign.", transaction=_TRANSACTION)
    ),
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
    "SignedTransaction": record(
        "A signed transaction, which was not sent.",
        raw=text("The signed bytes, for `eth_sendRawTransaction`.", pattern=_HEX),
        hash=text("The transaction's hash.", pattern=_HASH),
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
