"""The emulator of Google Cloud KMS answers as the service documents."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import urllib3

from dev.google_kms_emulator import RING, GoogleKMSEmulator
from dev.google_kms_keys import checksum
from tests.fixtures.google_kms import google_variables, open_google_kms_from


DIGEST = bytes(range(32))


class Client:
    """Sends any request, with a token of the emulator or without."""

    def __init__(self, emulator: GoogleKMSEmulator) -> None:
        self.pool = urllib3.PoolManager()
        self.endpoint = emulator.endpoint
        self.token = ""

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status, and the JSON or the text of the answer."""
        answer = self.pool.request(
            "GET" if body is None else "POST",
            f"{self.endpoint}{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.token}"},
        )
        if "json" not in answer.headers["Content-Type"]:
            return answer.status, answer.data.decode()
        return answer.status, answer.json()


@pytest.fixture
def client(
    google_kms_emulator: GoogleKMSEmulator, google_cloud_kms_key: str
) -> Iterator[Client]:
    """A client with the token that the backend has got."""
    environ = google_variables(google_kms_emulator, google_cloud_kms_key)
    backend = open_google_kms_from(environ)
    backend.resolve(google_cloud_kms_key)
    backend.close()
    client = Client(google_kms_emulator)
    header = google_kms_emulator.journal[-1].headers["authorization"]
    client.token = header.removeprefix("Bearer ")
    yield client
    client.pool.clear()


def _signing(**digest: bytes) -> Mapping[str, object]:
    return {
        "digest": {
            name: base64.b64encode(value).decode() for name, value in digest.items()
        }
    }


BAD_REQUESTS: dict[str, Mapping[str, object]] = {
    "nothing": {},
    "data": {"data": "AAAA"},
    "digest and data": {**_signing(sha256=DIGEST), "data": "AAAA"},
    "31 bytes": _signing(sha256=DIGEST[:31]),
    "33 bytes": _signing(sha256=DIGEST + b"x"),
    "another hash": _signing(sha384=DIGEST),
    "two hashes": _signing(sha256=DIGEST, sha384=DIGEST),
    "no base64": {"digest": {"sha256": "***"}},
    "checksum": {**_signing(sha256=DIGEST), "digestCrc32c": "1"},
}


@pytest.mark.parametrize("body", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_an_invalid_argument(
    client: Client, google_cloud_kms_key: str, body: Mapping[str, object]
) -> None:
    status, answer = client.ask(f"/v1/{google_cloud_kms_key}:asymmetricSign", body)

    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert answer["error"]["code"] == 400


def test_a_signature_needs_a_token_and_no_checksum(
    client: Client, google_cloud_kms_key: str
) -> None:
    """A checksum is verified if it was sent."""
    path = f"/v1/{google_cloud_kms_key}:asymmetricSign"
    given = [
        client.ask(path, {**_signing(sha256=DIGEST), **more})[1]["verifiedDigestCrc32c"]
        for more in ({}, {"digestCrc32c": checksum(DIGEST)})
    ]
    client.token = "ya29.other"
    status, answer = client.ask(f"/v1/{google_cloud_kms_key}/publicKey")

    assert given == [False, True]
    assert (status, answer["error"]["status"]) == (401, "UNAUTHENTICATED")


def test_other_methods_need_other_permissions(
    client: Client, google_kms_emulator: GoogleKMSEmulator, google_cloud_kms_key: str
) -> None:
    """The service account may not look at the states of versions, nor list them."""
    key = google_cloud_kms_key.partition("/cryptoKeyVersions")[0]
    paths = [f"/v1/{google_cloud_kms_key}", f"/v1/{key}/cryptoKeyVersions"]
    refused = [client.ask(path)[0] for path in paths]
    more = {"cloudkms.cryptoKeyVersions.get", "cloudkms.cryptoKeyVersions.list"}
    google_kms_emulator.permitted |= more
    try:
        (_, version), (_, versions) = map(client.ask, paths)
        absent = client.ask(f"/v1/{RING}/cryptoKeys/other/cryptoKeyVersions")
    finally:
        google_kms_emulator.permitted -= more

    assert refused == [403, 403]
    assert version == {
        "name": google_cloud_kms_key,
        "state": "ENABLED",
        "protectionLevel": "HSM",
        "algorithm": "EC_SIGN_SECP256K1_SHA256",
    }
    assert version in versions["cryptoKeyVersions"]
    assert absent[0] == 404
