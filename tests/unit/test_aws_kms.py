"""The KMS backend against a KMS that misbehaves, over HTTP."""

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.aws_kms import KMSAdministrator, KMSBackend, build_client
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Fault, Faults
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    ConfigurationError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports import KeyId
from tests.fixtures.kms import OpenKMS


DIGEST = bytes(range(32))
MISSING = KeyId(
    "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
)


@pytest.fixture
def wire(kms_emulator: KMSEmulator) -> Callable[[], list[str]]:
    """Answer which operations were asked for since the test began."""
    before = len(kms_emulator.journal)

    def operations() -> list[str]:
        return [call.operation for call in list(kms_emulator.journal)[before:]]

    return operations


def test_sends_the_digest_to_the_arn_and_nothing_else(
    kms: KMSBackend, kms_emulator: KMSEmulator, kms_key: KeyId
) -> None:
    """K9: a request names the full ARN, DIGEST, ECDSA_SHA_256, and the 32 bytes."""
    for number in range(20):
        digest = os.urandom(31) + bytes([number])

        kms.sign_digest(kms_key, digest)

        assert kms_emulator.journal[-1].target == "TrentService.Sign"
        assert kms_emulator.journal[-1].asked == {
            "KeyId": kms_key,
            "Message": base64.b64encode(digest).decode(),
            "MessageType": "DIGEST",
            "SigningAlgorithm": "ECDSA_SHA_256",
        }


def test_signing_asks_nothing_but_sign(
    kms: KMSBackend, kms_key: KeyId, wire: Callable[[], list[str]]
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
    kms: KMSBackend, kms_key: KeyId, wire: Callable[[], list[str]], length: int
) -> None:
    """A digest of another length than 32 is refused before anything is sent."""
    with pytest.raises(InvalidInputError, match="32 bytes"):
        kms.sign_digest(kms_key, bytes(length))

    assert wire() == []


@pytest.mark.parametrize("name", ["alias/refunds", "0000-00", "", MISSING + "/x"])
def test_signs_by_arn_only(
    kms: KMSBackend, wire: Callable[[], list[str]], name: str
) -> None:
    """An alias may be pointed at another key, so it is never signed with."""
    with pytest.raises(KeyNotFoundError, match="ARN"):
        kms.sign_digest(KeyId(name), DIGEST)

    assert wire() == []


def test_resolve_answers_the_arn_of_every_name(
    kms_administrator: KMSAdministrator,
    kms: KMSBackend,
    kms_emulator: KMSEmulator,
    wire: Callable[[], list[str]],
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
    wire: Callable[[], list[str]],
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


TRANSIENT: dict[str, tuple[Fault, type[BackendError]]] = {
    "throttle": (faults.throttle(), BackendThrottledError),
    "HTTP 429": (faults.html(429), BackendThrottledError),
    "internal": (faults.kms_internal(), BackendUnavailableError),
    "dependency": (faults.dependency_timeout(), BackendUnavailableError),
    "unavailable": (faults.key_unavailable(), BackendUnavailableError),
    "HTTP 500": (faults.html(500), BackendUnavailableError),
    "HTTP 503": (faults.html(503), BackendUnavailableError),
    "lost reply": (faults.drop_reply(), BackendUnavailableError),
}


@pytest.mark.parametrize(("fault", "error"), TRANSIENT.values(), ids=TRANSIENT)
def test_transient_faults_are_retried_twice_at_most(
    *,
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_faults: Faults,
    wire: Callable[[], list[str]],
    fault: Fault,
    error: type[BackendError],
) -> None:
    """K2: three attempts in all, and then an error that says to come back later."""
    kms_faults.always("Sign", fault)

    with pytest.raises(error) as raised:
        open_kms().sign_digest(kms_key, DIGEST)

    assert raised.value.retryable
    assert wire() == ["Sign"] * 3


def test_throttled_twice_and_then_signed(
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_faults: Faults,
    kms_emulator: KMSEmulator,
    wire: Callable[[], list[str]],
) -> None:
    """K1: two throttles cost two more attempts, and there is one signature."""
    kms_faults.on("Sign", faults.throttle(), times=2)
    signed = len(kms_emulator.trail)

    open_kms().sign_digest(kms_key, DIGEST)

    assert wire() == ["Sign"] * 3
    assert len(kms_emulator.trail) == signed + 1


def test_a_lost_reply_is_asked_for_again(
    open_kms: OpenKMS, kms_key: KeyId, kms_faults: Faults, kms_emulator: KMSEmulator
) -> None:
    """K5: when the answer is lost KMS signs again, which moves no money."""
    kms_faults.on("Sign", faults.drop_reply())
    signed = len(kms_emulator.trail)

    signature = open_kms().sign_digest(kms_key, DIGEST)

    assert len(kms_emulator.trail) == signed + 2
    assert kms_emulator.trail[-1].request_id == signature.request_id


@pytest.mark.parametrize(("configured", "attempts"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_max_retries_counts_attempts(
    *,
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_faults: Faults,
    wire: Callable[[], list[str]],
    configured: int,
    attempts: int,
) -> None:
    """KMS_MAX_RETRIES is the number of attempts in all, and at least one."""
    kms_faults.always("Sign", faults.kms_internal())

    with pytest.raises(BackendUnavailableError):
        open_kms(max_retries=configured).sign_digest(kms_key, DIGEST)

    assert len(wire()) == attempts


PERMANENT: dict[str, tuple[Fault, type[BackendError]]] = {
    "access denied": (faults.access_denied(), AccessDeniedError),
    "expired": (faults.expired_token(), AccessDeniedError),
    "unrecognized": (faults.unrecognized_client(), AccessDeniedError),
    "HTTP 403": (faults.html(403), AccessDeniedError),
    "disabled": (faults.disabled(), KeyUnusableError),
    "pending deletion": (faults.pending_deletion(), KeyUnusableError),
    "key usage": (faults.invalid_key_usage(), KeyUnusableError),
    "not found": (faults.not_found(), KeyNotFoundError),
    "validation": (faults.refuse("ValidationException"), BackendError),
    "unknown": (faults.refuse("NobodyKnowsThisException"), BackendError),
    "HTTP 404": (faults.html(404), BackendError),
    "a list": (faults.body(b"[]"), BackendError),
}


@pytest.mark.parametrize(("fault", "error"), PERMANENT.values(), ids=PERMANENT)
def test_permanent_faults_are_not_retried(
    *,
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_faults: Faults,
    wire: Callable[[], list[str]],
    fault: Fault,
    error: type[BackendError],
) -> None:
    """K3, K4: what will not pass by itself is asked once, and has its own class."""
    kms_faults.always("Sign", fault)

    with pytest.raises(BackendError) as raised:
        open_kms().sign_digest(kms_key, DIGEST)

    assert type(raised.value) is error
    assert not raised.value.retryable
    assert wire() == ["Sign"]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.cut_off(), id="cut off"),
        pytest.param(faults.body(b"<html>"), id="html"),
        pytest.param(faults.body(b"{}"), id="empty"),
        pytest.param(faults.body(b'{"Signature": 5, "PublicKey": 5}'), id="number"),
        pytest.param(faults.body(b'{"Signature": "a", "PublicKey": "a"}'), id="text"),
        pytest.param(faults.body(b"\xff\xfe"), id="bytes"),
    ],
)
def test_unreadable_answers_are_unavailability(
    open_kms: OpenKMS, kms_key: KeyId, kms_faults: Faults, fault: Fault
) -> None:
    """An answer that is cut off or is no answer is an error of ours, to be retried."""
    kms_faults.on("Sign", fault)
    kms_faults.on("GetPublicKey", fault)

    with pytest.raises(BackendUnavailableError):
        open_kms().sign_digest(kms_key, DIGEST)
    with pytest.raises(BackendUnavailableError):
        open_kms().public_key(kms_key)


def test_no_credentials(
    open_kms: OpenKMS,
    kms_key: KeyId,
    monkeypatch: pytest.MonkeyPatch,
    wire: Callable[[], list[str]],
) -> None:
    """K4: without credentials nothing is sent, and the error says so."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(AccessDeniedError, match="NoCredentialsError"):
        open_kms().sign_digest(kms_key, DIGEST)

    assert wire() == []


def test_creating_keys_is_never_retried(
    kms_administrator: KMSAdministrator,
    kms_faults: Faults,
    wire: Callable[[], list[str]],
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

    assert kms_emulator.journal[-1].asked == {
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
