"""The KMS backend and a KMS emulator, over HTTP, in one region or several (K18)."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import bitcurve
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backends.aws_kms.backend import KMSAdministrator, KMSBackend
from backends.aws_kms.client import build_client
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from signer.crypto.der import parse_public_key
from signer.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import KeyId
from tests.fixtures.kms import AWS, KMSOpener
from tests.support.devices import point, spki
from tests.support.waiting import eventually


DIGEST = bytes(range(32))
MISSING = KeyId(
    "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
)


def test_a_request_has_the_arn_and_the_digest(aws: AWS) -> None:
    """K9: a request names the full ARN, DIGEST, ECDSA_SHA_256, and the 32 bytes."""
    digest = os.urandom(32)
    aws.backend.sign_digest(aws.key, digest)

    assert aws.emulator.journal[-1].target == "TrentService.Sign"
    assert aws.emulator.journal[-1].parameters == {
        "KeyId": aws.key,
        "Message": base64.b64encode(digest).decode(),
        "MessageType": "DIGEST",
        "SigningAlgorithm": "ECDSA_SHA_256",
    }


def test_a_signature_is_one_request(aws: AWS) -> None:
    """K12: in steady state a signature is one Sign request, and no other."""
    for _ in range(3):
        aws.sign()

    assert aws.wire() == ["Sign"] * 3


def test_a_signature_has_the_request_id_of_cloudtrail(aws: AWS) -> None:
    signature = aws.sign()

    assert aws.emulator.trail[-1].request_id == signature.request_id


@pytest.mark.parametrize("name", ["alias/refunds", "0000-00", "", MISSING + "/x"])
def test_only_an_arn_can_sign(aws: AWS, name: str) -> None:
    """An alias may change its key."""
    with pytest.raises(KeyNotFoundError, match="ARN"):
        aws.backend.sign_digest(KeyId(name), DIGEST)

    assert aws.wire() == []


def test_every_name_resolves_to_the_arn(
    aws: AWS, kms_administrator: KMSAdministrator
) -> None:
    """Resolving an alias, key id or ARN needs only the permission GetPublicKey."""
    key = aws.emulator.create_key()
    aws.emulator.create_alias("alias/resolve", key)
    prefix = key.partition("key/")[0]
    names = [key, key.rpartition("/")[2], "alias/resolve", f"{prefix}alias/resolve"]

    resolved = {aws.backend.resolve(name) for name in names}

    assert resolved == {key}
    assert set(aws.wire()) == {"GetPublicKey"}


@pytest.mark.parametrize(
    ("spec", "usage"),
    [
        ("ECC_NIST_P256", "SIGN_VERIFY"),
        ("ECC_SECG_P256K1", "KEY_AGREEMENT"),
        ("RSA_2048", "SIGN_VERIFY"),
        ("RSA_2048", "ENCRYPT_DECRYPT"),
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
    ],
)
def test_keys_of_another_spec_or_usage_are_unusable(
    aws: AWS, spec: str, usage: str
) -> None:
    """K10: neither ``resolve`` nor ``public_key`` accepts them."""
    key = aws.emulator.create_key(spec, usage)

    with pytest.raises(KeyUnusableError):
        aws.backend.resolve(key)
    with pytest.raises(KeyUnusableError):
        aws.backend.public_key(KeyId(key))


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion"])
def test_disabled_keys_are_unusable(aws: AWS, state: str) -> None:
    """K3: also keys with a pending deletion; each call is one request."""
    key = KeyId(aws.emulator.create_key())
    aws.emulator.set_state(key, state)

    with pytest.raises(KeyUnusableError):
        aws.backend.resolve(key)
    with pytest.raises(KeyUnusableError) as error:
        aws.backend.sign_digest(key, DIGEST)

    assert not error.value.retryable
    assert aws.wire() == ["GetPublicKey", "Sign"]


def test_a_missing_key_is_not_found(kms: KMSBackend) -> None:
    """K3: by every method."""
    with pytest.raises(KeyNotFoundError):
        kms.resolve("alias/missing")
    with pytest.raises(KeyNotFoundError):
        kms.public_key(MISSING)
    with pytest.raises(KeyNotFoundError):
        kms.sign_digest(MISSING, DIGEST)


def test_key_creation_is_never_retried(
    aws: AWS, kms_administrator: KMSAdministrator
) -> None:
    """K7: although botocore treats LimitExceeded as throttling."""
    aws.faults.always("CreateKey", faults.refuse("LimitExceededException"))

    with pytest.raises(BackendError, match="LimitExceededException") as error:
        kms_administrator.generate("one too many")

    assert not error.value.retryable
    assert aws.wire() == ["CreateKey"]


def test_key_creation_needs_a_client_without_retries(kms_emulator: KMSEmulator) -> None:
    """K8: a second CreateKey after a lost response would create a second key."""
    client = build_client("eu-central-1", kms_emulator.endpoint, 3, 9000, 1)

    with pytest.raises(ValueError, match="must not retry"):
        KMSAdministrator(client)


def test_a_new_key_has_its_label_as_a_tag(
    kms_administrator: KMSAdministrator, kms_emulator: KMSEmulator
) -> None:
    """K8: a lost key can be found by its label."""
    key = kms_administrator.generate("rotation-17")

    assert kms_emulator.journal[-1].parameters == {
        "KeySpec": "ECC_SECG_P256K1",
        "KeyUsage": "SIGN_VERIFY",
        "Tags": [{"TagKey": "hotwallet", "TagValue": "rotation-17"}],
    }
    assert kms_administrator.resolve(key) == key


@pytest.mark.parametrize(
    ("region", "endpoint"), [(None, None), ("eu-central-1", "kms.secret.internal")]
)
def test_an_incomplete_configuration_is_refused(
    aws_environment: None, region: str | None, endpoint: str | None
) -> None:
    """Without region, or with a malformed endpoint, which the refusal omits."""
    with pytest.raises(ConfigurationError) as error:
        build_client(region, endpoint, 3, 9000, 1)

    assert error.value.refusals[0].code == "kms-not-configured"
    assert "secret" not in str(error.value)


def test_the_aws_configuration_cannot_change_the_endpoint(
    aws_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only our settings name an endpoint, since the guard checks only those."""
    configuration = tmp_path / "config"
    configuration.write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    client = build_client("eu-central-1", None, 3, 9000, 1)

    assert client.meta.endpoint_url == "https://kms.eu-central-1.amazonaws.com"


def test_a_backend_from_before_the_fork_is_refused(kms_emulator: KMSEmulator) -> None:
    """K16: a child that inherited it gets an error, and opens no client of a region."""
    script = f"""
import os
from backends.aws_kms.backend import KMSBackend
from backends.aws_kms.client import build_client
from signer.errors import BackendError

opened = []
def client(region):
    opened.append(region)
    return build_client(region, {kms_emulator.endpoint!r}, 1, 900, 1)

kms = KMSBackend(client("eu-central-1"), client)
key = kms.resolve({kms_emulator.create_key()!r})
child = os.fork()
if child:
    kms.sign_digest(key, bytes(32))
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
refused = 0
for ask in (
    lambda: kms.sign_digest(key, bytes(32)),
    lambda: kms.resolve("arn:aws:kms:eu-west-1:123456789012:key/mrk-1234abcd"),
):
    try:
        ask()
    except BackendError as e:
        refused += "fork" in str(e)
os._exit(7 if refused == 2 and len(opened) == 1 else 1)
"""

    finished = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)

    assert finished.returncode == 7


MOTO = {
    "KeyId": "7f4a9c5e-0000-4000-8000-000000000001",
    "KeyUsage": "SIGN_VERIFY",
    "PublicKey": base64.b64encode(
        spki(point(bitcurve.PrivateKey.from_int(7)))
    ).decode(),
}
MOTO_ARN = KeyId(f"arn:aws:kms:eu-central-1:123456789012:key/{MOTO['KeyId']}")


def test_a_key_without_its_spec_is_proved_by_its_curve(aws: AWS) -> None:
    """moto returns no ``KeySpec``, and the id of the ARN that was asked for."""
    aws.faults.on("GetPublicKey", faults.body(json.dumps(MOTO).encode()))

    assert parse_public_key(aws.backend.public_key(MOTO_ARN))


def test_a_key_of_another_curve_without_its_spec_is_unusable(aws: AWS) -> None:
    other = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    encoded = base64.b64encode(
        other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    answer = MOTO | {"PublicKey": encoded.decode()}
    aws.faults.on("GetPublicKey", faults.body(json.dumps(answer).encode()))

    with pytest.raises(KeyUnusableError, match="ECC_SECG_P256K1"):
        aws.backend.public_key(MOTO_ARN)


def test_the_id_of_another_key_is_refused(aws: AWS) -> None:
    """A bare id is accepted only for the ARN that ends with it."""
    aws.faults.on("GetPublicKey", faults.body(json.dumps(MOTO).encode()))

    with pytest.raises(BackendError, match="not a key ARN"):
        aws.backend.public_key(MISSING)


@pytest.mark.parametrize("member", ["KeyId", "KeyUsage", "PublicKey"])
def test_a_missing_member_is_named(aws: AWS, member: str) -> None:
    answer = {name: value for name, value in MOTO.items() if name != member}
    aws.faults.on("GetPublicKey", faults.body(json.dumps(answer).encode()))

    with pytest.raises(BackendUnavailableError, match=f"without {member}$"):
        aws.backend.public_key(MOTO_ARN)


OTHER_REGION = "eu-west-1"


@pytest.fixture
def regions(kms_emulator: KMSEmulator, kms_opener: KMSOpener) -> Iterator[KMSBackend]:
    """A backend whose own region is the emulator's."""
    backend = KMSBackend(kms_opener(kms_emulator.region), kms_opener)
    yield backend
    backend.close()


@pytest.fixture
def pair(kms_emulator: KMSEmulator) -> tuple[KeyId, KeyId]:
    """A multi-Region key, and its replica in another region."""
    arn = kms_emulator.create_key(multi_region=True)
    return KeyId(arn), KeyId(kms_emulator.replicate(arn, OTHER_REGION))


def test_an_arn_is_used_in_its_region(
    regions: KMSBackend,
    kms_opener: KMSOpener,
    kms_emulator: KMSEmulator,
    pair: tuple[KeyId, KeyId],
) -> None:
    before = len(kms_emulator.trail)
    keys = set()
    for arn in (*pair, *pair):
        assert regions.resolve(arn) == arn
        keys.add(regions.public_key(arn))
        regions.sign_digest(arn, DIGEST)

    assert len(keys) == 1
    signed = [(e.region, e.key_id) for e in list(kms_emulator.trail)[before:]]
    assert signed == [(kms_emulator.region, pair[0]), (OTHER_REGION, pair[1])] * 2
    assert kms_opener.regions == [kms_emulator.region, OTHER_REGION]


def test_names_without_a_region_are_local(
    regions: KMSBackend, kms_opener: KMSOpener, pair: tuple[KeyId, KeyId]
) -> None:
    """A key id means the key in AWS_REGION, not a replica."""
    assert regions.resolve(pair[1].rpartition("/")[2]) == pair[0]
    assert len(kms_opener.regions) == 1


def test_a_malformed_arn_opens_no_client(
    regions: KMSBackend, kms_opener: KMSOpener
) -> None:
    with pytest.raises(KeyNotFoundError):
        regions.sign_digest(KeyId(f"arn:aws:kms:{OTHER_REGION}:1:key/x"), DIGEST)

    assert len(kms_opener.regions) == 1


def test_threads_share_the_client_of_a_region(
    regions: KMSBackend, kms_opener: KMSOpener, pair: tuple[KeyId, KeyId]
) -> None:
    """Threads that sign at once open one client."""
    together = Barrier(4)

    def sign() -> bytes:
        together.wait(10)
        return regions.sign_digest(pair[1], DIGEST).der

    with ThreadPoolExecutor(4) as pool:
        made = [each.result() for each in [pool.submit(sign) for _ in range(4)]]

    assert all(made)
    assert kms_opener.regions[1:] == [OTHER_REGION]


def test_a_replica_has_its_own_state(
    regions: KMSBackend, kms_emulator: KMSEmulator, pair: tuple[KeyId, KeyId]
) -> None:
    """The primary key signs while its replica is disabled."""
    kms_emulator.set_state(pair[1], "Disabled")
    with pytest.raises(KeyUnusableError):
        regions.resolve(pair[1])

    assert regions.sign_digest(pair[0], DIGEST).der


def test_an_invalid_region_is_an_error(
    regions: KMSBackend, kms_opener: KMSOpener
) -> None:
    """The error contains no text of the vendor."""
    with pytest.raises(BackendError) as raised:
        regions.resolve("arn:aws:kms:-:123456789012:key/mrk-1234abcd")

    assert "123456789012" not in str(raised.value)
    assert raised.value.__context__ is None


def test_a_backend_of_one_region_has_no_replicas(
    kms: KMSBackend, pair: tuple[KeyId, KeyId]
) -> None:
    with pytest.raises(KeyNotFoundError):
        kms.resolve(pair[1])


def test_close_ends_the_connections_to_all_regions(
    regions: KMSBackend, kms_emulator: KMSEmulator, pair: tuple[KeyId, KeyId]
) -> None:
    connections = kms_emulator._server._connections
    before = set(connections)
    for arn in pair:
        regions.resolve(arn)
    ours = set(connections) - before
    regions.close()

    assert len(ours) == 2
    assert eventually(lambda: not ours & connections)
