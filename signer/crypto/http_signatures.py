"""
HTTP message signatures (RFC 9421) of requests with a Content-Digest (RFC 9530).

The library ``http_message_signatures`` verifies.  This module decides what a signature
must cover: only values that are stored, so that it can be verified again later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import http_sf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    MappingKeyResolver,
    algorithms,
)

from signer.crypto.request_keys import load_request_key
from signer.errors import RequestSignatureError


COVERED = ("@method", "@path", "content-digest", "idempotency-key")
"""The components that a signature covers, in any order: these and no others."""


def accept_signature(service: str) -> str:
    """
    Return the header ``Accept-Signature`` of *service*, which asks for a signature.

    >>> accept_signature("shop")  # doctest: +ELLIPSIS
    'sig1=("@method" ... "idempotency-key");created;keyid;alg;tag="shop"'
    """
    covered = '" "'.join(COVERED)
    tag = service.replace("\\", r"\\").replace('"', r"\"")
    return f'sig1=("{covered}");created;keyid;alg;tag="{tag}"'


_PARAMETERS = frozenset({"created", "keyid", "alg", "nonce", "tag"})


@dataclass(frozen=True, slots=True)
class _Message:
    """A request as the library reads it."""

    method: str
    url: str
    headers: Mapping[str, str]


class _Verifier(HTTPMessageVerifier):
    """Verifies signatures of any age: the caller has the clock."""

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """Accept every time: ``_require_form`` requires one, the caller compares it."""


def verify_request(
    *,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    keys: Mapping[str, str],
    service: str,
) -> datetime:
    """
    Require that one of *keys* signed a request, and return when, to the second.

    The signature names this *service* as its ``tag``: other services may have the same
    tenants, and must not pay it as well.  *headers* are Idempotency-Key,
    Content-Digest, Signature-Input and Signature.  *keys* are public keys in PEM, by
    ``keyid``.

    Raises:
        RequestSignatureError: The request has no such signature; the message says what
            is wrong.
    """
    for name in ("Signature-Input", "Signature", "Content-Digest"):
        if not headers.get(name):
            raise RequestSignatureError(f"the header {name} is missing")
    parameters = _require_form(headers["Signature-Input"])
    if parameters.get("tag") != service:
        raise RequestSignatureError(
            f"the parameter tag is not the name of this service, {service}"
        )
    pem = keys.get(parameters["keyid"])
    if pem is None:
        raise RequestSignatureError("the tenant has no request key with this keyid")
    key = load_request_key(pem)
    verifier = _Verifier(
        signature_algorithm=(
            algorithms.ED25519
            if isinstance(key, Ed25519PublicKey)
            else algorithms.ECDSA_P256_SHA256
        ),
        key_resolver=MappingKeyResolver(
            public_keys={parameters["keyid"]: key}, private_keys={}
        ),
    )
    # No component that is covered depends on the authority, which a proxy may change.
    message = _Message(method, f"https://localhost{path}", headers)
    try:
        (result,) = verifier.verify(
            message, max_age=None, require_components=COVERED, body=body
        )
    except HTTPMessageSignaturesException as e:
        problem = str(e).rstrip(".") or "it does not match the request and the key"
        raise RequestSignatureError(f"the signature is not valid: {problem}") from e
    return _read_time(result.parameters["created"])


def _require_form(signature_input: str) -> Mapping[str, Any]:
    """Require one signature that covers ``COVERED``, and return its parameters."""
    try:
        members: Any = http_sf.parse(signature_input.encode(), tltype="dictionary")
    except ValueError as e:
        problem = "the header Signature-Input is malformed"
        raise RequestSignatureError(problem) from e
    if len(members) != 1:
        raise RequestSignatureError("the request must have exactly one signature")
    ((components, parameters),) = members.values()
    if not _covers_all(components):
        raise RequestSignatureError("the signature covers other components")
    if not {"created", "keyid"} <= parameters.keys() <= _PARAMETERS:
        raise RequestSignatureError("the signature has other parameters")
    if not isinstance(parameters["keyid"], str):
        raise RequestSignatureError("the parameter keyid is not a string")
    _read_time(parameters["created"])
    return dict(parameters)


def _covers_all(components: Any) -> bool:
    """Return whether *components* are ``COVERED``, each once, without parameters."""
    if not isinstance(components, list) or len(components) != len(COVERED):
        return False
    return all((name, {}) in components for name in COVERED)


def _read_time(created: object) -> datetime:
    try:
        if type(created) is int:
            return datetime.fromtimestamp(created, UTC)
    except (OverflowError, ValueError, OSError):
        pass
    raise RequestSignatureError("the parameter created is not a time in seconds")
