"""The requests to Google Cloud KMS, and which keys are named in them."""

import os
from base64 import b64decode

import pytest

from backends.google_cloud_kms.answers import crc32c
from dev.google_kms_emulator import RING, SIGN
from signer.errors import (
    BackendError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import KeyId
from tests.fixtures.google_kms import CloudKMS


DIGEST = bytes(range(32))
ELSEWHERE = "projects/thief/locations/europe-west3/keyRings/r/cryptoKeys/k"


def test_the_request_is_what_google_documents(cloud: CloudKMS) -> None:
    """The digest as given, with its checksum, and a bearer token."""
    cloud.sign()
    call = cloud.emulator.journal[-1]

    assert call.target == f"{cloud.key}.{SIGN}"
    assert b64decode(call.parameters["digest"]["sha256"]) == DIGEST
    assert call.parameters["digestCrc32c"] == str(crc32c(DIGEST))
    assert set(call.parameters) == {"digest", "digestCrc32c"}
    assert call.headers["authorization"].startswith("Bearer ya29.")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "alias/refunds",
        f"{RING}/cryptoKeys/refunds",
        f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/0",
        f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/1/publicKey",
        f"{RING}/cryptoKeys/../cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/a%2Fb/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/a?b/cryptoKeyVersions/1",
        f"/{RING}/cryptoKeys/refunds/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/1\n",
    ],
)
def test_only_whole_names_of_versions_are_accepted(cloud: CloudKMS, name: str) -> None:
    """Nothing is sent for another name, which is not repeated."""
    before = len(cloud.emulator.journal)

    with pytest.raises(InvalidInputError, match="cryptoKeyVersions") as caught:
        cloud.backend.resolve(name)
    with pytest.raises(KeyNotFoundError):
        cloud.backend.sign_digest(KeyId(name), DIGEST)

    assert not name or name not in str(caught.value)
    assert len(cloud.emulator.journal) == before


def test_keys_that_are_not_allowed_are_refused(cloud: CloudKMS) -> None:
    """Those of other key rings, unless the list has them; nothing is sent."""
    name = KeyId(cloud.emulator.create_version(ring=ELSEWHERE.partition("/cryp")[0]))
    other = cloud.open()
    before = len(cloud.emulator.journal)

    with pytest.raises(InvalidInputError, match="GOOGLE_CLOUD_KMS_ALLOWED_KEYS"):
        other.resolve(name)
    with pytest.raises(KeyUnusableError, match="GOOGLE_CLOUD_KMS_ALLOWED_KEYS"):
        other.sign_digest(name, DIGEST)

    assert len(cloud.emulator.journal) == before
    pattern = (
        f"{name.partition('/keyRings')[0]}/keyRings/*/cryptoKeys/*/cryptoKeyVersions/*"
    )
    assert cloud.open(ALLOWED_KEYS=pattern).resolve(name) == name


def test_a_child_process_does_not_use_the_client(cloud: CloudKMS) -> None:
    """It would share sockets with its parent."""
    child = os.fork()
    if not child:
        try:
            cloud.sign()
        except BackendError as e:
            os._exit(7 if "before the fork" in str(e) else 1)
        os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
