"""The operations under ``/v1/sign`` and ``/rpc``."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

from api.http.openapi import problem_sets
from api.http.openapi.elements import (
    Element,
    Operations,
    answer,
    body,
    operation,
    parameter,
    schema,
    text,
)
from api.views.document import Address, Document, Hash, says
from api.views.document import text as text_of


class MessageSignatureDocument(Document):
    """A signature."""

    address: Address = says("The address that signed.")
    digest: Hash = says("The 32 bytes that were signed.")
    signature: Annotated[str, text_of(pattern="^0x[0-9a-f]{130}$")] = says(
        "r, s and v; v is 27 or 28."
    )

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        """Return the bytes in hex."""
        return {
            "digest": f"0x{source.digest.hex()}",
            "signature": f"0x{source.to_bytes().hex()}",
        }


_TAG = "Signing"

_ABOUT = """
Signatures for other programs, by the key of the wallet: JSON-RPC for web3.py, ethers,
viem and cast, and two routes of HTTP. The policy decides about each of them. No
signature reserves a nonce: to pay, use `eth_sendTransaction` or `POST /v1/refunds`.
"""

_SIGNER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"

_RPC_REQUEST = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
_RPC_ANSWER = {"jsonrpc": "2.0", "id": 1, "result": "0x7a69"}

_MESSAGE_SIGNING = {"message": "hello", "address": _SIGNER}
_MESSAGE_SIGNATURE = {
    "address": _SIGNER,
    "digest": f"0x{'ab' * 32}",
    "signature": f"0x{'ab' * 64}1b",
}

_TYPED_DATA_SIGNING = {
    "typed_data": {
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}],
            "Mail": [{"name": "contents", "type": "string"}],
        },
        "primaryType": "Mail",
        "domain": {"name": "Example"},
        "message": {"contents": "hello"},
    }
}

_ACCESS: dict[str, Any] = {
    "security": [{"bearerToken": ["sign"]}],
    "x-roles": ["signer"],
}

_PROBLEMS = (
    problem_sets.MERCHANT
    | problem_sets.BODY
    | problem_sets.SIGNATURE
    | {"tenant-blocked", "policy-violation", "limit-reached"}
)


def _signing(
    operation_id: str,
    summary: str,
    request: tuple[str, dict[str, Any]],
) -> Element:
    return {
        "post": operation(
            operation_id,
            summary,
            """
            The answer is synchronous. Repeating the request is safe: it makes another
            signature over the same bytes.
            """,
            tag=_TAG,
            requestBody=body(*request),
            answers={
                200: answer(
                    "The signature.",
                    schema("MessageSignature"),
                    _MESSAGE_SIGNATURE,
                )
            },
            problems=_PROBLEMS,
            **_ACCESS,
        )
    }


_HEADERS = [
    parameter(
        "Idempotency-Key",
        "header",
        text(
            """
            Names the `eth_sendTransaction` of a request with one call, for ever.
            Without it, the same transfer within two minutes is the same one.
            """,
            pattern="^[!-~]{1,255}$",
        ),
        required=False,
    ),
]


def _rpc(operation_id: str, summary: str, *, has_network: bool) -> Element:
    network = parameter(
        "network", "path", text("The name of a network."), required=True
    )
    return {
        "post": operation(
            operation_id,
            summary,
            """
            Errors of calls are answered 200, with the codes of JSON-RPC. The
            `Content-Type` is ignored, and notifications are not executed.
            """,
            tag=_TAG,
            parameters=[*([network] if has_network else []), *_HEADERS],
            requestBody=body("RPCRequest", _RPC_REQUEST),
            answers={
                200: answer(
                    "An answer to each call.", schema("RPCAnswer"), _RPC_ANSWER
                ),
                204: answer("There were only notifications.", None),
            },
            problems=problem_sets.MERCHANT
            | problem_sets.BODY
            | ({"not-found"} if has_network else set()),
            **_ACCESS,
        )
    }


_PATHS: dict[str, Element] = {
    "/rpc": _rpc("callOnlyNetwork", "JSON-RPC of the only network", has_network=False),
    "/rpc/{network}": _rpc("callNetwork", "JSON-RPC of a network", has_network=True),
    "/v1/sign/message": _signing(
        "signMessage",
        "Sign a message",
        ("MessageSigningRequest", _MESSAGE_SIGNING),
    ),
    "/v1/sign/typed-data": _signing(
        "signTypedData",
        "Sign typed data",
        ("TypedDataSigningRequest", _TYPED_DATA_SIGNING),
    ),
}

_SCHEMAS: dict[str, Element] = {
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

OPERATIONS = Operations(_TAG, _ABOUT, _PATHS, _SCHEMAS, sys.modules[__name__])
