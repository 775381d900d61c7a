"""
What boto3's client would send, from a call of ``Sign`` that is neither signed nor sent.

botocore's events are its public interface to the parts of a client: the endpoint that
its rules choose (partition, FIPS, dual stack), its credentials, its connections.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import botocore  # type: ignore[import-untyped]
from botocore.auth import BaseSigner  # type: ignore[import-untyped]
from botocore.awsrequest import AWSResponse  # type: ignore[import-untyped]
from botocore.httpsession import URLLib3Session  # type: ignore[import-untyped]
from botocore.model import Shape  # type: ignore[import-untyped]
from botocore.signers import RequestSigner  # type: ignore[import-untyped]

from backends.aws_kms.deadline import KEY, Deadline


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient


_EVENTS = ("choose-signer", "before-sign", "before-send", "needs-retry")
_SENT = ("X-Amz-Target", "Content-Type", "User-Agent")


@dataclass(frozen=True, slots=True)
class ClientParts:
    """The parts of a client that one request needs; nothing in it is a secret."""

    url: str
    headers: Mapping[str, str]
    connections: URLLib3Session
    output: Shape
    _context: Mapping[str, Any]
    _signer: RequestSigner
    _scope: Mapping[str, str]

    @property
    def deadline(self) -> Deadline:
        """The deadline that ``Deadline.guard`` gave to the client."""
        deadline: Deadline = self._context[KEY]
        return deadline

    def signer(self) -> BaseSigner:
        """
        Return a signer with the client's current credentials.

        botocore refreshes them first if they expire soon.  If there are none, the
        signer raises ``NoCredentialsError``.
        """
        return self._signer.get_auth_instance(**self._scope)


def read_client_parts(client: "KMSClient") -> ClientParts:
    """Return the parts of *client*, which no other thread uses yet."""
    seen: dict[str, dict[str, Any]] = {}
    handlers = {f"{event}.kms": _recorder(event, seen) for event in _EVENTS}
    for event, handler in handlers.items():
        client.meta.events.register_first(event, handler)
    try:
        client.sign(
            KeyId="alias/unused",
            Message=bytes(32),
            MessageType="DIGEST",
            SigningAlgorithm="ECDSA_SHA_256",
        )
    finally:
        for event, handler in handlers.items():
            client.meta.events.unregister(event, handler)
    request = seen["before-send"]["request"]
    chosen = seen["choose-signer"]
    return ClientParts(
        url=request.url,
        headers={name: request.headers[name].decode() for name in _SENT},
        connections=seen["needs-retry"]["endpoint"].http_session,
        output=seen["needs-retry"]["operation"].output_shape,
        _context=request.context,
        _signer=seen["before-sign"]["request_signer"],
        _scope={
            name: chosen[name]
            for name in ("signing_name", "region_name", "signature_version")
        },
    )


def _recorder(event: str, seen: dict[str, dict[str, Any]]) -> Any:
    def record(**details: Any) -> object:
        seen[event] = details
        if event == "choose-signer":
            return botocore.UNSIGNED  # A dry run needs no credentials.
        if event == "before-send":
            return AWSResponse(details["request"].url, 200, {}, _Empty())
        return None

    return record


class _Empty:
    """The body of a response that was never sent."""

    def stream(self) -> list[bytes]:
        return [b"{}"]
