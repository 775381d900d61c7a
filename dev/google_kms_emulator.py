"""
An emulator of Google Cloud KMS's REST API on 127.0.0.1, for development and tests.

::

    $ python -m dev.google_kms_emulator --folder .hotwallet --create-key
    {"endpoint": "http://127.0.0.1:4568", "key": "projects/...", "credentials": ...}

In a test, ``with GoogleKMSEmulator() as emulator`` serves on a free port, from a
thread.  It also issues the access tokens: ``write_credentials`` writes a file of a
service account for ``GOOGLE_APPLICATION_CREDENTIALS``, with which google-auth asks the
emulator for a token, as it asks Google.

It serves AsymmetricSign, GetPublicKey, GetCryptoKeyVersion and ListCryptoKeyVersions.
It differs from the service as follows:

* Keys are made and changed by the methods of this class, not over HTTP, and at once:
  Google needs seconds to generate a version, and up to three hours until every server
  knows that one is disabled.
* Permissions are the set ``permitted``, for all keys alike; there is no IAM policy.
* It has no quota, and no TLS; ``faults`` has the errors of both, and of the network.
* It signs digests only, and not ``data``.
* The types of the violations of a ``PreconditionFailure`` are not documented by Google;
  these are a guess, on which nothing but a word in an error message depends.
"""

import argparse
import json
import re
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from dev.google_kms_keys import SECP256K1, GoogleError, KeyVersions, Result
from dev.google_tokens import TokenIssuer
from dev.kms_server import EmulatedService
from dev.kms_signing import Signing
from dev.kms_wire import Call, Handler, Reply, decode


RING = "projects/example-project/locations/europe-west3/keyRings/hotwallet"
SIGN, PUBLIC_KEY = "AsymmetricSign", "GetPublicKey"
TOKEN = "Token"  # noqa: S105  The name of an operation.

_PERMISSIONS: Mapping[str, str] = {
    SIGN: "cloudkms.cryptoKeyVersions.useToSign",
    PUBLIC_KEY: "cloudkms.cryptoKeyVersions.viewPublicKey",
    "GetCryptoKeyVersion": "cloudkms.cryptoKeyVersions.get",
    "ListCryptoKeyVersions": "cloudkms.cryptoKeyVersions.list",
}
# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_HTTP: Mapping[str, int] = {
    "DEADLINE_EXCEEDED": 504,
    "FAILED_PRECONDITION": 400,
    "INTERNAL": 500,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAUTHENTICATED": 401,
    "UNAVAILABLE": 503,
}
_KEY = r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/:]+"
_ROUTES = (
    (SIGN, re.compile(rf"POST /v1/({_KEY}/cryptoKeyVersions/[^/:]+):asymmetricSign")),
    (PUBLIC_KEY, re.compile(rf"GET /v1/({_KEY}/cryptoKeyVersions/[^/:]+)/publicKey")),
    (
        "GetCryptoKeyVersion",
        re.compile(rf"GET /v1/({_KEY}/cryptoKeyVersions/[^/:]+)"),
    ),
    ("ListCryptoKeyVersions", re.compile(rf"GET /v1/({_KEY})/cryptoKeyVersions")),
    (TOKEN, re.compile(r"POST /(token)")),
)


class _RESTHandler(Handler):
    """Reads Google's REST requests; the target of a call is ``NAME.OPERATION``."""

    def do_GET(self) -> None:  # noqa: N802  The name that the base class calls.
        """Respond to one request."""
        self.do_POST()

    def read_call(self, body: bytes) -> Call:
        line = f"{self.command} {self.path.partition('?')[0]}"
        target = "."
        for operation, route in _ROUTES:
            if found := route.fullmatch(line):
                target = f"{found[1]}.{operation}"
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Call(target, decode(body), headers, body)


class GoogleKMSEmulator(EmulatedService):
    """
    The emulator in this process.

    ``permitted`` are the permissions of the service account, and ``tokens`` issues its
    access tokens.
    """

    handler = _RESTHandler

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.permitted = {_PERMISSIONS[SIGN], _PERMISSIONS[PUBLIC_KEY]}
        self.tokens = TokenIssuer()
        self._versions = KeyVersions()

    def create_version(
        self,
        key: str = "refunds",
        *,
        ring: str = RING,
        algorithm: str = SECP256K1,
        protection_level: str = "HSM",
    ) -> str:
        """Create the next version of a key, and return its name."""
        name = f"{ring}/cryptoKeys/{key}"
        return self._versions.create(name, algorithm, protection_level).name

    def set_state(self, name: str, state: str) -> None:
        """Set the state of a version, one of ``dev.google_kms_keys.STATES``."""
        self._versions.find(name).state = state

    def address(self, name: str) -> str:
        """Return the Ethereum address of a secp256k1 version."""
        point = self._versions.find(name).private_key.public_key()
        encoded = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return to_checksum_address(keccak(encoded[1:])[12:])

    def write_credentials(self, file: Path) -> Path:
        """Write the service account's key to *file*, and return *file*."""
        self.tokens.write_credentials(file, self.endpoint)
        return file

    def respond(self, call: Call, signing: Signing) -> Reply:
        name = call.target.rpartition(".")[0]
        if call.operation == TOKEN:
            return self._issue_token(call)
        if not name:
            return Reply(b"<html>404. That's an error.</html>", 404, "text/html")
        try:
            self._authorize(call)
            return json_reply(self._answer(call, name, signing))
        except GoogleError as e:
            return error_reply(e)

    def _answer(self, call: Call, name: str, signing: Signing) -> Result:
        match call.operation:
            case "AsymmetricSign":
                return self._versions.sign(name, call.parameters, signing)
            case "GetPublicKey":
                return self._versions.public_key(name)
            case "GetCryptoKeyVersion":
                return self._versions.find(name).describe()
            case _:
                return self._versions.list(name)

    def _authorize(self, call: Call) -> None:
        if not self.tokens.accepts(call.headers.get("authorization", "")):
            raise GoogleError(
                "UNAUTHENTICATED",
                "Request had invalid authentication credentials. Expected OAuth 2"
                " access token, login cookie or other valid authentication credential.",
                _error_info("ACCESS_TOKEN_TYPE_UNSUPPORTED"),
            )
        permission = _PERMISSIONS[call.operation]
        if permission not in self.permitted:
            raise GoogleError(
                "PERMISSION_DENIED",
                f"Permission '{permission}' denied on resource"
                f" '{call.target.rpartition('.')[0]}' (or it may not exist).",
                _error_info("IAM_PERMISSION_DENIED"),
            )

    def _issue_token(self, call: Call) -> Reply:
        token = self.tokens.issue(call.body)
        if token is None:
            refusal = {"error": "invalid_grant", "error_description": "Invalid JWT"}
            return json_reply(refusal, 400)
        return json_reply(dict(token))


def json_reply(result: Result, status: int = 200) -> Reply:
    """Return *result* as Google sends JSON."""
    body = json.dumps(result, indent=2).encode()
    return Reply(body, status, "application/json; charset=UTF-8")


def error_reply(error: GoogleError) -> Reply:
    """Return *error* as a ``google.rpc.Status`` in JSON."""
    status: Result = {
        "code": _HTTP[error.status],
        "message": error.message,
        "status": error.status,
    }
    if error.details:
        status["details"] = [*error.details]
    return json_reply({"error": status}, _HTTP[error.status])


def _error_info(reason: str) -> Mapping[str, object]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "cloudkms.googleapis.com"},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; print the endpoint as one line of JSON."""
    parser = argparse.ArgumentParser(description="Google Cloud KMS on 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument(
        "--folder", type=Path, required=True, help="for the service account's file"
    )
    parser.add_argument(
        "--create-key", action="store_true", help="create a signing key"
    )
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with GoogleKMSEmulator(options.port) as emulator:
        file = emulator.write_credentials(options.folder / "google-credentials.json")
        facts = {"endpoint": emulator.endpoint, "credentials": str(file)}
        if options.create_key:
            key = emulator.create_version()
            facts |= {"key": key, "address": emulator.address(key)}
        print(json.dumps(facts), flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
