"""The KMS backend against a KMS that misbehaves, over HTTP."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.aws_kms import KMSAdministrator, KMSBackend, build_client
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Faults
from signer.errors import (
    BackendError,
    ConfigurationError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports import KeyId
from tests.fixtures.kms import Wire


DIGEST = bytes(range(32))
MISSING = KeyId(
    "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
)


def test_sends_the_digest_to_the_arn_and_nothing_else(
    kms: KMSBackend, kms_emulator: KMSEmulator, kms_key: KeyId
) -> None:
    """K9: a request names the full ARN, DIGEST, ECDSA_SHA_256, and the 32 bytes."""
    for number in range(20):
        digest = os.urandom(31) + bytes([number])

        kms.sign_digest(kms_key, digest)

        assert kms_emulator.journal[-1].target == "TrentService.Sign"
        assert kms_emulator.journal[-1].parameters == {
            "KeyId": kms_key,
            "Message": base64.b64encode(digest).decode(),
            "MessageType": "DIGEST",
            "SigningAlgorithm": "ECDSA_SHA_256",
        }


def test_signing_asks_nothing_but_sign(
    kms: KMSBackend, kms_key: KeyId, wire: Wire
) -> None:
    """K12: in steady state a signature costs one Sign, and no other call."""
    for _ in range(10):
        kms.sign_digest(kms_key, DIGEST)

    assert wire() == ["Sign"] * 10


def test_the_request_id_is_cloudtrails(
    kms: KMSBackend, kms_emulator: KMSEmulator, kms_key: KeyId
) -> None:
    """The signature carries the request id under which CloudTrail knows the call."""
    signature = kms.sign_digest(kms_key, DIGEST)

    assert kms_emulator.trail[-1].request_id == signature.request_id


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_other_lengths_never_reach_the_wire(
    kms: KMSBackend, kms_key: KeyId, wire: Wire, length: int
) -> None:
    """A digest of another length than 32 is refused before anything is sent."""
    with pytest.raises(InvalidInputError, match="32 bytes"):
        kms.sign_digest(kms_key, bytes(length))

    assert wire() == []


@pytest.mark.parametrize("name", ["alias/refunds", "0000-00", "", MISSING + "/x"])
def test_signs_by_arn_only(kms: KMSBackend, wire: Wire, name: str) -> None:
    """An alias may be pointed at another key, so it is never signed with."""
    with pytest.raises(KeyNotFoundError, match="ARN"):
        kms.sign_digest(KeyId(name), DIGEST)

    assert wire() == []


def test_resolve_answers_the_arn_of_every_name(
    kms_administrator: KMSAdministrator,
    kms: KMSBackend,
    kms_emulator: KMSEmulator,
    wire: Wire,
) -> None:
    """Alias, key id and ARN resolve to one ARN, with GetPublicKey's permission."""
    key = kms_emulator.create_key()
    kms_emulator.create_alias("alias/resolve", key)
    prefix = key.partition("key/")[0]
    names = [key, key.rpartition("/")[2], "alias/resolve", f"{prefix}alias/resolve"]

    resolved = {kms.resolve(name) for name in names}

    assert resolved == {key}
    assert set(wire()) == {"GetPublicKey"}


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
def test_other_kinds_of_keys_are_unusable(
    kms: KMSBackend, kms_emulator: KMSEmulator, spec: str, usage: str
) -> None:
    """K10: neither resolve nor public_key accepts a key of other spec or usage."""
    key = kms_emulator.create_key(spec, usage)

    with pytest.raises(KeyUnusableError):
        kms.resolve(key)
    with pytest.raises(KeyUnusableError):
        kms.public_key(KeyId(key))


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion"])
def test_keys_out_of_service_are_unusable(
    kms: KMSBackend,
    kms_emulator: KMSEmulator,
    wire: Wire,
    state: str,
) -> None:
    """K3: a key that may not sign is unusable, found out by one request each."""
    key = KeyId(kms_emulator.create_key())
    kms_emulator.set_state(key, state)

    with pytest.raises(KeyUnusableError):
        kms.resolve(key)
    with pytest.raises(KeyUnusableError) as error:
        kms.sign_digest(key, DIGEST)

    assert not error.value.retryable
    assert wire() == ["GetPublicKey", "Sign"]


def test_a_key_that_is_not_there(kms: KMSBackend) -> None:
    """K3: a missing key is KeyNotFoundError, from every method."""
    with pytest.raises(KeyNotFoundError):
        kms.resolve("alias/nobody-made-this")
    with pytest.raises(KeyNotFoundError):
        kms.public_key(MISSING)
    with pytest.raises(KeyNotFoundError):
        kms.sign_digest(MISSING, DIGEST)


def test_creating_keys_is_never_retried(
    kms_administrator: KMSAdministrator,
    kms_faults: Faults,
    wire: Wire,
) -> None:
    """K7: botocore takes LimitExceeded for a throttle; we ask once."""
    kms_faults.always("CreateKey", faults.refuse("LimitExceededException"))

    with pytest.raises(BackendError, match="LimitExceededException") as error:
        kms_administrator.generate("one too many")

    assert not error.value.retryable
    assert wire() == ["CreateKey"]


def test_only_a_client_without_retries_may_create_keys(
    kms_emulator: KMSEmulator,
) -> None:
    """K8: a second CreateKey after a lost answer would leave an orphan."""
    client = build_client("eu-central-1", kms_emulator.endpoint, 3, 9000, 1)

    with pytest.raises(ValueError, match="must not retry"):
        KMSAdministrator(client)


def test_a_new_key_has_its_tag(
    kms_administrator: KMSAdministrator, kms_emulator: KMSEmulator
) -> None:
    """K8: a key is found again by the label that it was made with."""
    key = kms_administrator.generate("rotation-17")

    assert kms_emulator.journal[-1].parameters == {
        "KeySpec": "ECC_SECG_P256K1",
        "KeyUsage": "SIGN_VERIFY",
        "Tags": [{"TagKey": "hotwallet", "TagValue": "rotation-17"}],
    }
    assert kms_administrator.resolve(key) == key


def test_no_client_without_a_region(aws_environment: None) -> None:
    """A client that cannot be made is a refusal to start."""
    with pytest.raises(ConfigurationError) as error:
        build_client(None, None, 3, 9000, 1)

    assert error.value.refusals[0].code == "kms-not-configured"


def test_no_client_for_nonsense(aws_environment: None) -> None:
    """An endpoint that is no URL is a refusal that does not repeat it."""
    with pytest.raises(ConfigurationError) as error:
        build_client("eu-central-1", "kms.secret.internal", 3, 9000, 1)

    assert error.value.refusals[0].code == "kms-not-configured"
    assert "secret" not in str(error.value)


def test_the_aws_configuration_cannot_move_the_endpoint(
    aws_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only our settings name an endpoint, since only those pass the guard."""
    configuration = tmp_path / "config"
    configuration.write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    client = build_client("eu-central-1", None, 3, 9000, 1)

    assert client.meta.endpoint_url == "https://kms.eu-central-1.amazonaws.com"


def test_a_client_from_before_the_fork_is_refused(kms_emulator: KMSEmulator) -> None:
    """K16: a child that inherited the backend gets an error, not its parent's reply."""
    script = f"""
import os, sys
from backends.aws_kms import KMSBackend, build_client
from signer.errors import BackendError

kms = KMSBackend(build_client("eu-central-1", {kms_emulator.endpoint!r}, 1, 900, 1))
key = kms.resolve({kms_emulator.create_key()!r})
child = os.fork()
try:
    kms.sign_digest(key, bytes(32))
except BackendError as e:
    os._exit(7 if child == 0 and "fork" in str(e) else 1)
os._exit(1 if child == 0 else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

    finished = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)

    assert finished.returncode == 7
