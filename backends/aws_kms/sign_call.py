"""
One request of ``Sign``, without the parts of boto3 that cost most of its CPU time.

A call of boto3 validates parameters, evaluates the endpoint rules, builds a user agent
twice, emits a dozen events, and parses by a model: half of its time, and the same each
time.  ``client_parts.py`` does that once.  Each request is signed by botocore (SigV4)
with the client's credentials, and sent by botocore over the client's connections.
"""

import json
from base64 import b64encode
from typing import TYPE_CHECKING, NamedTuple

from botocore.awsrequest import (  # type: ignore[import-untyped]
    AWSPreparedRequest,
    AWSRequest,
)
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from botocore.parsers import create_parser  # type: ignore[import-untyped]

from backends.aws_kms.client_parts import read_client_parts
from backends.aws_kms.errors import request_id
from signer.ports.key_backend import KeyId


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient


_REDIRECT = 300


class Answer(NamedTuple):
    """A DER signature and the request's id."""

    der: bytes
    request_id: str | None


class SignCall:
    """Sends ``Sign`` as *client* would, once per call; threads share an instance."""

    def __init__(self, client: "KMSClient") -> None:
        self._parts = read_client_parts(client)
        self._parser = create_parser("json")
        self.deadline = self._parts.deadline

    def send(self, key_id: KeyId, digest: bytes) -> Answer:
        """
        Return KMS's signature over *digest*.

        It raises what boto3 raises: ``ClientError`` for an error of KMS,
        ``BotoCoreError`` if there is no response, ``ResponseParserError`` and
        ``KeyError`` if it is malformed.
        """
        body = {
            "KeyId": key_id,
            "Message": b64encode(digest).decode(),
            "MessageType": "DIGEST",  # Signed as given; RAW would hash it again.
            "SigningAlgorithm": "ECDSA_SHA_256",
        }
        response = self._parts.connections.send(self._signed(json.dumps(body).encode()))
        parsed = self._parser.parse(
            {
                "status_code": response.status_code,
                "headers": response.headers,
                "body": response.content,
            },
            self._parts.output,
        )
        if response.status_code >= _REDIRECT:
            raise ClientError(parsed, "Sign")
        return Answer(parsed["Signature"], request_id(parsed["ResponseMetadata"]))

    def _signed(self, body: bytes) -> AWSPreparedRequest:
        request = AWSRequest("POST", self._parts.url, self._parts.headers, body)
        self._parts.signer().add_auth(request)
        headers = dict(request.headers.items())
        return AWSPreparedRequest("POST", self._parts.url, headers, body, False)
