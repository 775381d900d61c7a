"""The routes of the role ``sign``."""

from typing import Any

from api.http.openapi import examples, problem_sets
from api.http.openapi.elements import (
    Element,
    answer,
    body,
    operation,
    parameter,
    schema,
    text,
)


TAG = "Signing"

ABOUT = """
Signatures for other programs, by the key of the wallet: JSON-RPC for web3.py, ethers,
viem and cast, and two routes of HTTP. The policy decides about each of them. No
signature reserves a nonce: to pay, use `eth_sendTransaction` or `POST /v1/refunds`.
"""

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
            tag=TAG,
            requestBody=body(*request),
            answers={
                200: answer(
                    "The signature.",
                    schema("MessageSignature"),
                    examples.MESSAGE_SIGNATURE,
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
            tag=TAG,
            parameters=[*([network] if has_network else []), *_HEADERS],
            requestBody=body("RPCRequest", examples.RPC_REQUEST),
            answers={
                200: answer(
                    "An answer to each call.", schema("RPCAnswer"), examples.RPC_ANSWER
                ),
                204: answer("There were only notifications.", None),
            },
            problems=problem_sets.MERCHANT
            | problem_sets.BODY
            | ({"not-found"} if has_network else set()),
            **_ACCESS,
        )
    }


PATHS: dict[str, Element] = {
    "/rpc": _rpc("callOnlyNetwork", "JSON-RPC of the only network", has_network=False),
    "/rpc/{network}": _rpc("callNetwork", "JSON-RPC of a network", has_network=True),
    "/v1/sign/message": _signing(
        "signMessage",
        "Sign a message",
        ("MessageSigningRequest", examples.MESSAGE_SIGNING),
    ),
    "/v1/sign/typed-data": _signing(
        "signTypedData",
        "Sign typed data",
        ("TypedDataSigningRequest", examples.TYPED_DATA_SIGNING),
    ),
}

SCHEMAS: dict[str, Element] = {
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
