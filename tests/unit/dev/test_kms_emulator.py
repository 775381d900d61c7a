"""The emulator signs as AWS does, verified with ``cryptography``."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
)
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import load_der_public_key

from backends.aws_kms.client import build_client
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Faults
from signer.ports.key_backend import KeyId
from tests.support.arithmetic import N


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient


DIGEST = bytes(range(32))


@pytest.fixture(scope="module")
def client(kms_emulator: KMSEmulator) -> Iterator["KMSClient"]:
    """A boto3 client without our backend."""
    with closing(build_client("eu-central-1", kms_emulator.endpoint, 1, 9_000, 4)) as c:
        yield c


def _verify(spki: bytes, signature: bytes, digest: bytes) -> None:
    key = load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))


def _sign(client: "KMSClient", key: str, message: bytes) -> bytes:
    return client.sign(
        KeyId=key,
        Message=message,
        MessageType="DIGEST",
        SigningAlgorithm="ECDSA_SHA_256",
    )["Signature"]


def test_s_is_high_half_of_the_time(client: "KMSClient", kms_key: KeyId) -> None:
    """Of 100 signatures 20 to 80 have a high s; each has another r."""
    pairs = [decode_dss_signature(_sign(client, kms_key, DIGEST)) for _ in range(100)]

    assert 20 < sum(s > N // 2 for _, s in pairs) < 80
    assert len({r for r, _ in pairs}) == 100


@pytest.mark.parametrize("length", [1, 20, 31, 33, 48, 64])
def test_digests_of_other_lengths_are_refused(
    client: "KMSClient", kms_key: KeyId, length: int
) -> None:
    with pytest.raises(ClientError, match="Digest is invalid length") as error:
        _sign(client, kms_key, bytes(length))

    assert error.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("Disabled", "DisabledException"),
        ("PendingDeletion", "KMSInvalidStateException"),
    ],
)
def test_a_disabled_key_is_refused(client: "KMSClient", state: str, code: str) -> None:
    """Also with a pending deletion, until it is enabled again."""
    key = client.create_key(
        KeySpec="ECC_SECG_P256K1",
        KeyUsage="SIGN_VERIFY",
        Tags=[{"TagKey": "for", "TagValue": "tests"}],
    )["KeyMetadata"]["Arn"]
    if state == "Disabled":
        client.disable_key(KeyId=key)
    else:
        client.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)

    with pytest.raises(ClientError) as signing:
        _sign(client, key, DIGEST)
    with pytest.raises(ClientError) as showing:
        client.get_public_key(KeyId=key)

    assert signing.value.response["Error"]["Code"] == code
    assert showing.value.response["Error"]["Code"] == code
    assert signing.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409
    assert client.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == state
    client.cancel_key_deletion(KeyId=key)
    client.enable_key(KeyId=key)
    assert _sign(client, key, DIGEST)


def test_keys_of_another_kind_do_not_sign(
    client: "KMSClient", kms_emulator: KMSEmulator
) -> None:
    """The key must have the usage and the algorithm."""
    cipher = kms_emulator.create_key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    longer = kms_emulator.create_key("ECC_NIST_P384")

    with pytest.raises(ClientError, match="InvalidKeyUsageException"):
        _sign(client, cipher, DIGEST)
    with pytest.raises(ClientError, match="UnsupportedOperationException"):
        client.get_public_key(KeyId=cipher)
    with pytest.raises(ClientError, match="InvalidKeyUsageException"):
        _sign(client, longer, DIGEST)


def test_verify_agrees_with_sign(client: "KMSClient", kms_key: KeyId) -> None:
    """Verify accepts the digest as given, and refuses another one."""
    asked = {
        "KeyId": kms_key,
        "MessageType": "DIGEST",
        "SigningAlgorithm": "ECDSA_SHA_256",
        "Signature": _sign(client, kms_key, DIGEST),
    }

    assert client.verify(**asked, Message=DIGEST)["SignatureValid"]  # type: ignore[arg-type]
    with pytest.raises(ClientError, match="KMSInvalidSignatureException"):
        client.verify(**asked, Message=bytes(32))  # type: ignore[arg-type]


def test_each_sign_request_has_a_cloudtrail_event(
    client: "KMSClient", kms_emulator: KMSEmulator, kms_key: KeyId
) -> None:
    """It has the request id, and the error code of a refused request."""
    _sign(client, kms_key, DIGEST)
    with pytest.raises(ClientError) as error:
        _sign(client, kms_key, bytes(31))

    done, refused = list(kms_emulator.trail)[-2:]
    assert (done.key_id, done.message_type, done.error_code) == (
        kms_key,
        "DIGEST",
        None,
    )
    assert refused.error_code == "ValidationException"
    assert refused.request_id == error.value.response["ResponseMetadata"]["RequestId"]


def test_unsigned_requests_are_refused(kms_emulator: KMSEmulator) -> None:
    """SigV4 is required; the connection stays open."""
    connection = http.client.HTTPConnection(
        kms_emulator.endpoint.removeprefix("http://")
    )
    headers = {"X-Amz-Target": "TrentService.ListKeys"}
    answers = []
    for _ in range(2):
        connection.request("POST", "/", b"{}", headers)
        socket_in_use = connection.sock
        response = connection.getresponse()
        answers.append((response.status, json.loads(response.read())["__type"]))
        assert connection.sock is socket_in_use
    connection.close()

    assert answers == [(400, "MissingAuthenticationTokenException")] * 2


OTHER_REGION = "eu-west-1"


@pytest.fixture(scope="module")
def other_client(kms_emulator: KMSEmulator) -> Iterator["KMSClient"]:
    """A boto3 client of another region."""
    with closing(build_client(OTHER_REGION, kms_emulator.endpoint, 1, 9_000, 4)) as c:
        yield c


def test_a_fault_may_affect_one_region(
    client: "KMSClient",
    other_client: "KMSClient",
    kms_emulator: KMSEmulator,
    kms_faults: Faults,
) -> None:
    arn = kms_emulator.create_key(multi_region=True)
    replica = kms_emulator.replicate(arn, OTHER_REGION)
    denied = faults.only_in(OTHER_REGION, faults.access_denied())
    kms_faults.always("GetPublicKey", denied)

    with pytest.raises(ClientError, match="AccessDenied"):
        other_client.get_public_key(KeyId=replica)
    assert client.get_public_key(KeyId=arn)["KeyId"] == arn
    kms_faults.clear()
    kms_emulator.down.add(kms_emulator.region)
    try:
        with pytest.raises(BotoCoreError):
            client.get_public_key(KeyId=arn)
        assert other_client.get_public_key(KeyId=replica)["KeyId"] == replica
    finally:
        kms_emulator.down.clear()
